"""The recipes that ship, as TOML: of the published networks and of the bundled weights."""

from importlib import resources


def shipped() -> dict[str, str]:
    """Name and text of every recipe in the package, sorted by name."""
    files = sorted((f for f in resources.files(__name__).iterdir() if f.name.endswith(".toml")), key=lambda f: f.name)
    return {f.name.removesuffix(".toml"): f.read_text(encoding="utf-8") for f in files}
