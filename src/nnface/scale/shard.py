"""A shard: the rows of some pictures as one Parquet file. Its schema is the same for every task and model.

    file     string                      as typed, joined with the walk
    width    int32                       of the upright picture, in pixels; null where it could not be read
    height   int32
    faces    list<struct>                best first; null where the picture could not be read
        box         struct<x1, y1, x2, y2: float>    pixels of the upright picture; may reach beyond it
        score       float                            0..1; null for a picture that was given as a face
        landmarks   list<struct<x, y: float>>        five points; null for a detector without them
        attributes  map<string, struct<label: string, confidence: float, certain: bool,
                                       probabilities: map<string, float>>>
                                                     null where not asked for, empty for a face too small to tell
        parts       map<string, int64>               pixels of each part; null where not asked for
    error    string                      why the picture could not be read; null where it could

Maps, not structs of this model's labels, so that the files of several models can be read as one table. What is not
UTF-8 in a file's name is written as backslash escapes.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any

import numpy as np

from nnface.errors import DataError, DependencyError
from nnface.predict.stream import Failure
from nnface.results import Attribute, Faces

_TOGETHER = 128
"""Rows that are Python objects at one time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One shard, not yet written."""

    number: int
    data: bytes
    """The Parquet file."""
    pictures: int
    failed: int
    """How many of the pictures could not be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One picture of an output folder."""

    file: str
    faces: Faces | None
    """None where the picture could not be read."""
    error: str | None

    def to_dict(self) -> dict[str, Any]:
        """The line of JSON that the command line writes for the picture without ``--to``."""
        return {"file": self.file} | ({"error": self.error} if self.faces is None else self.faces.to_dict())


def arrow() -> Any:
    """The package pyarrow.

    Raises:
        DependencyError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DependencyError("Parquet needs pyarrow: pip install 'nnface[scale]'") from error
    return pyarrow


@cache
def schema() -> Any:
    """The ``pyarrow.Schema`` of every shard; see the head of this file.

    Raises:
        DependencyError: pyarrow is not installed.
    """
    pa = arrow()
    number, text = pa.float32(), pa.string()
    attribute = [("label", text), ("confidence", number), ("certain", pa.bool_())]
    attribute.append(("probabilities", pa.map_(text, number)))
    face = [
        ("box", pa.struct([(side, number) for side in ("x1", "y1", "x2", "y2")])),
        ("score", number),
        ("landmarks", pa.list_(pa.struct([("x", number), ("y", number)]))),
        ("attributes", pa.map_(text, pa.struct(attribute))),
        ("parts", pa.map_(text, pa.int64())),
    ]
    columns = [("file", text), ("width", pa.int32()), ("height", pa.int32())]
    return pa.schema([*columns, ("faces", pa.list_(pa.struct(face))), ("error", text)])


def encode(run: str, number: int, results: Iterable[tuple[str, Faces | Failure]]) -> Shard:
    """A shard of the results of some pictures, in their order.

    Args:
        run: the manifest's hash, which the shard carries.
        number: of the shard.
        results: each picture's name and what was found; drawn from as the work goes on, and kept in Arrow's form.
    """
    pa = arrow()
    failed, parts, rows = 0, [], iter(results)
    while some := [_row(name, found) for name, found in islice(rows, _TOGETHER)]:
        failed += sum("error" in row for row in some)
        parts.append(pa.Table.from_pylist(some, schema()))
    table = pa.concat_tables(parts) if parts else schema().empty_table()
    facts = {"nnface.run": run, "nnface.shard": str(number), "nnface.failed": str(failed)}
    sink = pa.BufferOutputStream()
    pa.parquet.write_table(table.replace_schema_metadata(facts), sink, compression="zstd")
    return Shard(number=number, data=sink.getvalue().to_pybytes(), pictures=len(table), failed=failed)


def facts(path: Any) -> tuple[int, dict[str, str]]:
    """The rows of a Parquet file and what :func:`encode` said of it, from its end alone.

    Raises:
        DataError: it is no whole Parquet file.
    """
    pa = arrow()
    try:
        found = pa.parquet.read_metadata(path)
        return found.num_rows, {key.decode(): value.decode() for key, value in (found.metadata or {}).items()}
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is damaged or no Parquet file; remove it, and it is made again") from error


def decode(path: Any) -> Iterator[Row]:
    """The rows of a shard, in order.

    Raises:
        DataError: it is damaged, or not of :func:`schema`.
    """
    pa = arrow()
    try:
        with pa.parquet.ParquetFile(path) as file:
            if not file.schema_arrow.equals(schema()):
                raise DataError(f"{path} does not have the columns that nnface writes")
            for batch in file.iter_batches(_TOGETHER):
                for row in batch.to_pylist():
                    faces = None if row["faces"] is None else _faces(row["width"], row["height"], row["faces"])
                    yield Row(file=row["file"], faces=faces, error=row["error"])
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is damaged or cannot be read; remove it, and run the command once more") from error


def _row(name: str, found: Faces | Failure) -> dict[str, Any]:
    if isinstance(found, Failure):
        return {"file": _text(name), "error": _text(found.reason)}
    faces = [
        {
            "box": dict(zip(("x1", "y1", "x2", "y2"), face.box.tolist(), strict=True)),
            "score": face.score,
            "landmarks": None if face.landmarks is None else [{"x": x, "y": y} for x, y in face.landmarks.tolist()],
            "attributes": None if face.attributes is None else [(k, _told(a)) for k, a in face.attributes.items()],
            "parts": None if face.parts is None else list(face.parts.items()),
        }
        for face in found
    ]
    return {"file": _text(name), "width": found.width, "height": found.height, "faces": faces}


def _told(attribute: Attribute) -> dict[str, Any]:
    return {
        "label": attribute.label,
        "confidence": attribute.confidence,
        "certain": attribute.certain,
        "probabilities": list(attribute.probabilities.items()),
    }


def _text(name: str) -> str:
    return name.encode(errors="backslashreplace").decode()


def _faces(width: int, height: int, rows: list[dict[str, Any]]) -> Faces:
    def asked(column: str) -> bool:
        return bool(rows) and rows[0][column] is not None

    return Faces(
        width=width,
        height=height,
        boxes=np.array([list(row["box"].values()) for row in rows], np.float32).reshape(-1, 4),
        scores=np.array([row["score"] for row in rows], np.float32) if asked("score") or not rows else None,
        landmarks=(
            np.array([[(point["x"], point["y"]) for point in row["landmarks"]] for row in rows], np.float32)
            if asked("landmarks")
            else None
        ),
        attributes=[_attributes(row["attributes"]) for row in rows] if asked("attributes") else None,
        parts=[dict(row["parts"]) for row in rows] if asked("parts") else None,
    )


def _attributes(told: list[tuple[str, dict[str, Any]]]) -> dict[str, Attribute]:
    return {name: Attribute(**value | {"probabilities": dict(value["probabilities"])}) for name, value in told}
