"""The zoo: every model that nnface knows by name, where its file is, and on which terms it may be used."""

from nnface.zoo.registry import Entry, card, entries, find, resolve

__all__ = ["Entry", "card", "entries", "find", "resolve"]
