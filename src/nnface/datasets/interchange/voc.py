"""PASCAL VOC's XML (Everingham et al., http://host.robots.ox.ac.uk/pascal/VOC), as LabelImg, CVAT and others write it.

    Annotations/NAME.xml, JPEGImages/NAME.jpg, ImageSets/Main/train.txt

``bndbox`` is read and written as the box's edges in pixels, counted from 0; ``difficult`` 1 marks an ignore region.
Landmarks, which VOC has none of, stand in ``lm`` (``x1``, ``y1``, ... ``y5``) beside ``has_lm`` 1, as in
the conversions of WIDER FACE that are about; other readers pass over both.
"""

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import numpy as np

from nnface.datasets.interchange.placing import names, number, place, refuse, write_quickly
from nnface.datasets.samples import DetectionSample, empty_landmarks
from nnface.errors import DataError
from nnface.files import write_atomic
from nnface.image import IMAGE_SUFFIXES, read_sized

MAX_BYTES = 1 << 24
"""The largest XML file that is read."""
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def splits(root: str | Path) -> list[str]:
    """The lists that are there; a folder without any is ``train``."""
    root = Path(root)
    lists = root / "ImageSets" / "Main"
    found = [name for name in ("train", "val", "test", "val416", "trainval") if (lists / f"{name}.txt").is_file()]
    if "trainval" in found and len(found) > 1:
        found.remove("trainval")
    return found or (["train"] if next(_annotations(root).rglob("*.xml"), None) else [])


def read(root: str | Path, split: str = "train") -> list[DetectionSample]:
    """The pictures of a split with their faces; all names of objects count as faces.

    Without ``ImageSets/Main/SPLIT.txt`` all XML files are ``train``. They may lie in ``Annotations`` or in the folder
    itself; pictures are looked for in ``JPEGImages``, ``images`` and beside the XML. The key is the XML's path without
    suffix.

    Raises:
        DataError: no XML file, one that is malformed or not VOC's, a list that cannot be read, or a picture that is not
            there.
    """
    root = Path(root)
    folder = _annotations(root)
    listed = root / "ImageSets" / "Main" / f"{split}.txt"
    if listed.is_file():
        try:
            lines = listed.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"the list {listed} cannot be read: {error}") from error
        keys = [_key(folder, line.strip()) for line in lines if line.strip()]
    elif split == "train" or not splits(root):
        keys = sorted(p.relative_to(folder).with_suffix("").as_posix() for p in folder.rglob("*.xml"))
    else:
        raise DataError(f"{root} has no list of {split}: {listed} is not there; there are {', '.join(splits(root))}")
    if not keys:
        raise DataError(f"{folder} holds no XML file of VOC's form")
    for key in keys:
        if key.startswith("/") or ".." in key.split("/"):
            raise DataError(f"{listed}: the name {key[:60]!r} leads out of the data set")
    return [_sample(root, folder, key) for key in keys]


def _key(folder: Path, line: str) -> str:
    """The name that a line of a list begins with; VOC's own lists of one class go on with a number."""
    return line if (folder / f"{line}.xml").is_file() else line.split()[0]


def _annotations(root: Path) -> Path:
    return root / "Annotations" if (root / "Annotations").is_dir() else root


def _sample(root: Path, folder: Path, key: str) -> DetectionSample:
    path = folder / f"{key}.xml"
    try:
        data = path.read_bytes() if path.stat().st_size <= MAX_BYTES else b""
        # Entities could blow a small file up, and VOC has none.
        top = ElementTree.fromstring(data) if b"<!" not in data.replace(b"<!--", b"") else None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except ElementTree.ParseError as error:
        raise DataError(f"{path} is no XML: {error}") from error
    if top is None or top.tag != "annotation":
        raise DataError(f"{path} is not VOC's form: it has no <annotation>, or declarations that VOC does not have")
    objects = top.findall("object")
    boxes = np.zeros((len(objects), 4), np.float32)
    landmarks = empty_landmarks(len(objects))
    for i, item in enumerate(objects):
        try:
            boxes[i] = [float(item.findtext(f"bndbox/{name}", "none")) for name in _CORNERS]
            if item.findtext("has_lm", "0").strip() == "1":
                landmarks[i] = [[float(item.findtext(f"lm/{axis}{n}", "none")) for axis in "xy"] for n in range(1, 6)]
        except ValueError as error:
            raise DataError(f"{path}: object {i + 1} has no bndbox of four numbers, or an lm without ten") from error
    if not np.isfinite(boxes).all():
        raise DataError(f"{path}: a bndbox is not finite")
    keep = (boxes[:, 2:] > boxes[:, :2]).all(1)
    return DetectionSample(
        key=key,
        path=_picture(root, path, key, top.findtext("filename", "").strip()),
        boxes=boxes[keep],
        landmarks=landmarks[keep],
        ignored=np.array([item.findtext("difficult", "0").strip() == "1" for item in objects], bool)[keep],
    )


def _picture(root: Path, xml: Path, key: str, name: str) -> Path:
    """The picture of an XML file: by the XML's name, or by what ``filename`` says, without its folders."""
    named = Path(key).parent / Path(name.replace("\\", "/")).name if name else None
    places = (root / "JPEGImages", root / "images", root)
    for place_ in places:
        suffix = Path(name).suffix or ".jpg"
        for candidate in ([place_ / named] if named else []) + [place_ / f"{key}{suffix}"]:
            if candidate.is_file():
                return candidate
        for suffix in sorted(IMAGE_SUFFIXES):
            if (path := place_ / f"{key}{suffix}").is_file():
                return path
    raise DataError(f"the picture of {xml} is not there: no {name or key} in JPEGImages or images beside it")


def written(samples: Sequence[DetectionSample]) -> list[str]:
    """The pictures' names below ``JPEGImages`` in a set that is written.

    Raises:
        DataError: two pictures of one name, or a file that has no picture's suffix.
    """
    return names(samples, {}, IMAGE_SUFFIXES)


def write(
    root: str | Path, split: str, samples: Sequence[DetectionSample], *, copy: bool = False, force: bool = False
) -> None:
    """Write a split: an XML file a picture, the pictures, and then the list ``ImageSets/Main/SPLIT.txt``.

    Coordinates are whole where they are, else have up to two decimals.

    Args:
        root: the folder, which is made.
        split: the list's name.
        samples: what to write.
        copy: copy the pictures; else they are linked to.
        force: replace what is there.

    Raises:
        DataError: two pictures of one name.
        ImageError: a picture that cannot be read: its size is needed.
        NnfaceError: the list is there already, or something cannot be written.
    """
    root = Path(root)
    listed = root / "ImageSets" / "Main" / f"{split}.txt"
    refuse(listed, force)
    files = written(samples)
    keys = [file.rsplit(".", 1)[0] for file in files]
    for key in keys:
        refuse(root / "Annotations" / f"{key}.xml", force)
    for key, file, sample in zip(keys, files, samples, strict=True):
        write_quickly(root / "Annotations" / f"{key}.xml", _xml(file, sample))
    place(samples, [root / "JPEGImages" / file for file in files], copy=copy)
    listed.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(listed, "".join(f"{key}\n" for key in keys))


def _xml(file: str, sample: DetectionSample) -> str:
    width, height = read_sized(sample.path)
    folder, _, name = file.rpartition("/")
    lines = [
        "<annotation>",
        f"  <folder>{escape(folder or 'JPEGImages')}</folder>",
        f"  <filename>{escape(name)}</filename>",
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
        "  <segmented>0</segmented>",
    ]
    for box, points, ignored in zip(sample.boxes, sample.landmarks, sample.ignored, strict=True):
        corners = "".join(f"<{tag}>{number(v)}</{tag}>" for tag, v in zip(_CORNERS, box, strict=True))
        known = not np.isnan(points).any()
        ten = [
            f"<{axis}{n}>{v:.3f}</{axis}{n}>" for n, p in enumerate(points, 1) for axis, v in zip("xy", p, strict=True)
        ]
        lines += [
            "  <object>",
            "    <name>face</name><pose>Unspecified</pose><truncated>0</truncated>"
            f"<difficult>{int(ignored)}</difficult>",
            f"    <bndbox>{corners}</bndbox>",
            f"    <has_lm>1</has_lm><lm>{''.join(ten)}</lm>" if known else "    <has_lm>0</has_lm>",
            "  </object>",
        ]
    return "\n".join([*lines, "</annotation>"]) + "\n"
