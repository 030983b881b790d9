"""The table of models, and from a name to a verified file.

The table is ``weights/index.json``, which ``python -m nnface.zoo.index`` writes from the model files themselves; the
files of the bundled models lie beside it, each with its card.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from nnface.errors import ModelFileError, NnfaceError
from nnface.files import atomic_path, sha256
from nnface.header import require_file

WEIGHTS = Path(__file__).parent / "weights"
"""Where the bundled files, the cards and the index lie; a build without weights has none of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One model of the zoo."""

    name: str
    """What ``--model`` takes."""
    task: str
    """``detect``, ``classify`` or ``segment``."""
    file: str
    """The file's name, bundled or in the cache."""
    bytes: int
    sha256: str
    licence: str
    """The terms of the weights."""
    data: str
    """What they were trained on."""
    data_licence: str
    """The terms of the data."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """Measured figures by name, as in the Spec."""
    command: str = ""
    """The command that makes the figures."""
    card: str = ""
    """The file name of the model card, beside the index."""
    url: str | None = None
    """Where the file comes from if it is not bundled."""

    @property
    def bundled(self) -> Path | None:
        """The file inside the installed package; None where this build has none."""
        path = WEIGHTS / self.file
        return path if path.is_file() else None

    @property
    def cached(self) -> Path:
        """Where a download lies, or would."""
        return home() / "models" / self.file


def home() -> Path:
    """The folder for downloads: ``NNFACE_HOME``, or the platform's folder for caches."""
    if folder := os.environ.get("NNFACE_HOME"):
        return Path(folder)
    import pooch  # here and below: it takes longer to import than a photograph takes to look through

    return Path(pooch.os_cache("nnface"))


@lru_cache(maxsize=1)
def entries() -> tuple[Entry, ...]:
    """Every model of the zoo; none in a package that was built without weights."""
    index = WEIGHTS / "index.json"
    if not index.is_file():
        return ()
    return tuple(Entry(**row) for row in json.loads(index.read_text(encoding="utf-8")))


def find(name: str) -> Entry:
    """The model of this name.

    Raises:
        ModelFileError: there is none; the sentence gives the nearest name.
    """
    table = {entry.name: entry for entry in entries()}
    if name in table:
        return table[name]
    if not table:
        raise ModelFileError(
            f"{name} is neither a file nor a bundled model: this nnface was built without weights; give --model a "
            "file, which nnface import or nnface export makes"
        )
    import difflib

    near = difflib.get_close_matches(name, table, 1)
    known = f"did you mean {near[0]}?" if near else f"the models are {', '.join(table)}"
    raise ModelFileError(f"{name} is neither a file nor a model of the zoo; {known}")


def card(entry: Entry) -> str:
    """The model card, Markdown; empty where this build has none."""
    path = WEIGHTS / entry.card
    return path.read_text(encoding="utf-8") if entry.card and path.is_file() else ""


def resolve(model: str | Path) -> Path:
    """The file that ``--model`` means: a file that exists, else a model of the zoo, which is downloaded if need be.

    A bundled file comes first, then a download of before whose SHA-256 still fits, then the download: verified, and
    under its final name only when it is whole. ``NNFACE_OFFLINE=1`` forbids the last.

    Raises:
        ModelFileError: neither a file nor a name of the zoo, or the download failed or is not the published file.
    """
    path = Path(model)
    if os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises where a folder above is not to be entered
        return path
    # A folder that happens to be called "default" does not hide the model of that name.
    named = isinstance(model, str) and not path.suffix and len(path.parts) == 1
    if not named or (os.path.isdir(path) and all(entry.name != model for entry in entries())):  # noqa: PTH112
        require_file(path)
    entry = find(str(model))
    if entry.bundled is not None:
        return entry.bundled
    if entry.cached.is_file() and sha256(entry.cached) == entry.sha256:
        return entry.cached
    _download(entry)
    return entry.cached


def _download(entry: Entry) -> None:
    if entry.url is None:
        raise ModelFileError(
            f"the model {entry.name} is not in this nnface, which was built without weights; give --model a file, "
            "which nnface import or nnface export makes"
        )
    if os.environ.get("NNFACE_OFFLINE", "") not in ("", "0"):
        raise ModelFileError(
            f"the model {entry.name} is not on this machine and NNFACE_OFFLINE forbids to download it; unset it, or "
            f"put {entry.url} at {entry.cached}"
        )
    import pooch
    from requests import RequestException

    pooch.get_logger().setLevel("WARNING")
    try:
        entry.cached.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(entry.cached) as temporary:
            pooch.retrieve(
                entry.url,
                known_hash=f"sha256:{entry.sha256}",
                fname=temporary.name,
                path=temporary.parent,
                downloader=pooch.HTTPDownloader(timeout=30),
            )
    except ValueError as error:
        raise ModelFileError(
            f"what {entry.url} gave is not the published file (another SHA-256), and was thrown away; try again, or "
            "report it"
        ) from error
    except (RequestException, OSError, NnfaceError) as error:
        raise ModelFileError(f"the model {entry.name} could not be downloaded from {entry.url}: {error}") from error
