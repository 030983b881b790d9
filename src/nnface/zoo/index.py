"""Write ``weights/index.json``: ``python -m nnface.zoo.index``.

A bundled model describes itself: what the table says of it is read from the file and its Spec, so the two cannot
differ. The Spec's provenance gives ``data``, ``data_licence`` and ``command`` (which makes the figures). Entries of
models that are downloaded are written by hand and kept.
"""

import json
from dataclasses import asdict
from pathlib import Path

from nnface.errors import ModelFileError
from nnface.files import sha256, write_atomic
from nnface.header import read_spec
from nnface.zoo.registry import WEIGHTS, Entry


def describe(path: Path) -> Entry:
    """The entry of a bundled model file.

    Raises:
        ModelFileError: not a model file, or its Spec lacks what the table has to say.
    """
    spec = read_spec(path)
    missing = [key for key in ("data", "data_licence", "command") if not spec.provenance.get(key)]
    if missing:
        raise ModelFileError(f"{path}: the provenance in its nnface metadata lacks {', '.join(missing)}")
    return Entry(
        name=path.stem,
        task=spec.task,
        file=path.name,
        bytes=path.stat().st_size,
        sha256=sha256(path),
        licence=spec.licence,
        data=spec.provenance["data"],
        data_licence=spec.provenance["data_licence"],
        figures=dict(spec.figures),
        command=spec.provenance["command"],
        card=f"{path.stem}.md",
    )


def write(folder: Path = WEIGHTS) -> None:
    """Write the index of the models in ``folder``; see the module."""
    index = folder / "index.json"
    rows = json.loads(index.read_text(encoding="utf-8")) if index.is_file() else []
    table = [asdict(describe(path)) for path in sorted(folder.glob("*.onnx"))]
    table += [row for row in rows if row["url"] is not None]
    write_atomic(index, json.dumps(table, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    write()
