"""What a terminal shows of the faces that were found: a table, and where the annotated copies lie."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnface.commands import output
from nnface.predict.source import Source
from nnface.predict.video import Frame
from nnface.results import Faces, part_words, words


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What there is to say of a picture, or of a frame of a video."""

    source: Source
    faces: Faces | None = None
    frame: Frame | None = None
    drawn: Path | None = None
    error: str | None = None
    """Why there are no faces."""
    not_written: tuple[str, ...] = ()
    """Why there is no copy, a sentence for each that was due."""

    def row(self) -> dict[str, Any]:
        """The line of JSON."""
        row: dict[str, Any] = {"file": self.source.path}
        if self.frame is not None:
            row |= {"frame": self.frame.index, "time": self.frame.time}
        return row | ({"error": self.error} if self.faces is None else self.faces.to_dict())


class FaceTable:
    """What a terminal shows: a row a face where pictures were named one by one, or else a row a picture or video."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._by_face = all(source.named and source.kind == "picture" for source in sources)
        self._rows: list[list[str]] = []
        self._drawn: dict[Path, None] = {}
        self._faces = 0
        self._told: list[str] = []
        self._done: dict[str, int] = {}

    def add(self, result: Result) -> None:
        """Take a result in."""
        name = output.printable(result.source.path)
        if result.drawn is not None:
            self._drawn[result.drawn] = None
        if result.faces is None:
            return
        self._faces += len(result.faces)
        if result.frame is not None:
            self._add_frame(name, result.faces)
            return
        self._count("picture")
        size = f"{result.faces.width} x {result.faces.height}"
        if not self._by_face:
            best = _score(result.faces[0].score) if result.faces else ""
            self._rows.append([name, size, str(len(result.faces)), best])
            return
        for number, face in enumerate(result.faces):
            x1, y1, x2, y2 = (str(round(v)) for v in face.box.tolist())
            told = {}
            if face.attributes is not None:
                told["perceived (?: not certain)"] = words(face.attributes)
            if face.parts is not None:
                told["parts"] = part_words(face.parts)
            self._told = list(told)
            row = ["" if number else name, str(number + 1), _score(face.score), x1, y1, x2, y2, *told.values()]
            self._rows.append(row)
        if not result.faces:
            self._rows.append([name, "none", "", "", "", "", ""])

    def show(self) -> None:
        """Print it, also what was done before an interruption."""
        from nnface.report.table import Table

        if not self._done:
            return
        columns = (
            ["picture", "face", "score", "x1", "y1", "x2", "y2"] if self._by_face else ["", "size", "faces", "best"]
        )
        columns += self._told
        Table("", columns, [row + [""] * (len(columns) - len(row)) for row in self._rows]).show()
        counts = " and ".join(output.counted(n, what) for what, n in self._done.items())
        print(f"{output.counted(self._faces, 'face')} in {counts}")
        drawn = [place for place in self._drawn if place.exists()]  # a video may have come to grief at its end
        if len(drawn) > 8:
            print(f"{len(drawn)} annotated copies, the last: {output.printable(str(drawn[-1]))}")
        else:
            for place in drawn:
                print(f"annotated: {output.printable(str(place))}")

    def _add_frame(self, name: str, faces: Faces) -> None:
        """A video has one row, which grows: its size, its faces in all frames, the best score."""
        best = faces[0].score or 0.0 if faces else 0.0
        if not self._rows or self._rows[-1][0] != name:
            self._rows.append([name, f"{faces.width} x {faces.height}", "0", ""])
        row = self._rows[-1]
        row[2] = str(int(row[2]) + len(faces))
        row[3] = max(row[3], f"{best:.2f}" if faces else "")
        self._count("frame")

    def _count(self, what: str) -> None:
        self._done[what] = self._done.get(what, 0) + 1


def _score(score: float | None) -> str:
    """A chip that was given as a face has no score."""
    return "" if score is None else f"{score:.2f}"
