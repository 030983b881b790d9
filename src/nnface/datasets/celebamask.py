"""CelebAMask-HQ: portraits and their parts, as published and prepared.

Lee, Liu, Wu and Luo, "MaskGAN: Towards Diverse and Interactive Facial Image Manipulation", CVPR 2020; the pictures are
for non-commercial research and education. Published, a folder looks so::

    CelebA-HQ-img/0.jpg ...                               30,000 portraits of 1024 px
    CelebAMask-HQ-mask-anno/0/00000_skin.png ...          a PNG of 512 px for each part that a face has, 2,000 faces
                                                          a folder
    CelebA-HQ-to-CelebA-mapping.txt                       idx orig_idx orig_file, with or without that header
    list_eval_partition.txt                               CelebA's own: 000001.jpg 0, for train, val and test 0, 1, 2

Prepared (``nnface data prepare celebamask``, or any set of your own), one label image a portrait::

    images/NAME.jpg ...                                   or CelebA-HQ-img/
    masks/NAME.png ...                                    labels of CelebAMask-HQ's order, grey or palette PNG
    train.txt, val.txt, test.txt                          optional lists of names, one a line
"""

import struct
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from nnface.datasets.samples import SegmentationSample
from nnface.errors import DataError, UsageError
from nnface.image import IMAGE_SUFFIXES, MAX_PIXELS
from nnface.imagefile import probe
from nnface.spec import CELEBAMASK_LABELS, LABEL_ORDERS

Part = Literal["train", "val", "test"]
Labels = NDArray[np.uint8]

FACES = 30_000
"""The portraits that are published."""
COUNTS: Mapping[Part, int] = {"train": 24_183, "val": 2_993, "test": 2_824}
"""How CelebA's own split falls on them."""
PICTURES, PARTS, MASKS = "CelebA-HQ-img", "CelebAMask-HQ-mask-anno", "masks"
MAPPING, PARTITION = "CelebA-HQ-to-CelebA-mapping.txt", "list_eval_partition.txt"

_PNG = b"\x89PNG\r\n\x1a\n"
_SKEW = 1.01
"""A mask may be smaller than its picture, but no more than so much wider or higher for it."""


def read(root: str | Path, split: str = "train", lists: Sequence[str | Path] = ()) -> list[SegmentationSample]:
    """The portraits of a prepared folder with their label images, sorted by list and line (without lists: by name).

    Args:
        root: the folder that holds ``masks`` beside ``images`` or ``CelebA-HQ-img``.
        split: takes ``SPLIT.txt`` and every ``SPLIT_*.txt`` of the folder, each with a key or picture name a line.
            A folder without any list of ``train``, ``val``, ``test`` or ``holdout`` gives all of its pairs.
        lists: these lists instead; names count from ``root`` where no such file is in the working folder.

    Raises:
        DataError: a folder, a list, a picture or a mask is not there, a list names nothing, or two pictures (or masks)
            have one name but for the suffix.
    """
    root = Path(root)
    folder = next((root / name for name in ("images", PICTURES) if (root / name).is_dir()), None)
    if folder is None or not (root / MASKS).is_dir():
        if (root / PARTS).is_dir():
            raise DataError(
                f"{root} holds CelebAMask-HQ as published, whose parts are not merged yet; "
                f"run nnface data prepare celebamask --root {root}"
            )
        raise DataError(f"{root} is no prepared CelebAMask-HQ: it must hold images/ (or {PICTURES}/) and {MASKS}/")
    pictures, masks = _one_each(folder, IMAGE_SUFFIXES), _one_each(root / MASKS, {".png"})
    keys, origin = _listed(root, split, lists, pictures)
    samples = []
    for key in keys:
        if key not in pictures or key not in masks:
            place, what = (folder, "picture") if key not in pictures else (root / MASKS, "label image .png")
            raise DataError(f"{key} of {origin} has no {what} in {place}; add it, or take it off the list")
        samples.append(SegmentationSample(key=key, path=pictures[key], mask=masks[key]))
    if not samples:
        raise DataError(f"{origin} names no portrait")
    return samples


def by_stem(folder: Path, suffixes: Collection[str]) -> tuple[dict[str, Path], list[Path]]:
    """The files of a folder by their names without suffix, sorted, and those whose name is another one's already."""
    found: dict[str, Path] = {}
    twice = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in suffixes and found.setdefault(path.stem, path) != path:
            twice.append(path)
    return found, twice


def _one_each(folder: Path, suffixes: Collection[str]) -> dict[str, Path]:
    found, twice = by_stem(folder, suffixes)
    if twice:
        first = found[twice[0].stem].name
        raise DataError(f"{twice[0]} has the name of {first} but for the suffix, and one counts; take the other away")
    return found


def _listed(root: Path, split: str, lists: Sequence[str | Path], pictures: Mapping[str, Path]) -> tuple[list[str], str]:
    """Keys, each once, and where they come from."""
    chosen = [path if (path := Path(name)).is_file() else root / path for name in lists]
    if not chosen:
        every = {p for s in (*get_args(Part), "holdout") for p in [root / f"{s}.txt", *root.glob(f"{s}_*.txt")]}
        there = sorted(p for p in every if p.is_file())
        if not there:
            return sorted(pictures), str(root)
        chosen = [p for p in there if p.stem == split or p.stem.startswith(f"{split}_")]
        if not chosen:
            raise DataError(f"{root} has no list {split}.txt; it has {', '.join(p.name for p in there)}")
    keys: dict[str, None] = {}
    for path in chosen:
        for line in _lines(path):
            name = line.strip()
            keys |= {name if name in pictures else Path(name).stem: None} if name else {}
    return list(keys), " and ".join(map(str, chosen))


def read_mask(path: str | Path, labels: int = len(CELEBAMASK_LABELS)) -> Labels:
    """A label image, (H, W) uint8, exactly as it is stored.

    Grey and palette PNGs of up to 8 bits are read as their stored values, whatever colours a palette gives them; OpenCV
    and browsers would show the colours. One exception: PNG optimizers turn a grey label image into a palette of those
    greys, so that where every value in use stands for a grey that is a label, the greys are the labels.

    Args:
        path: the file.
        labels: how many labels there are; every value must be below.

    Raises:
        DataError: not there, no PNG, damaged, in colour, of 16 bits, larger than a picture may be, or with values
            beyond the labels.
    """
    path = Path(path)
    values, palette = stored_values(path)
    return as_labels(values, palette, path, labels)


def as_labels(
    values: Labels, palette: NDArray[np.uint8] | None, path: Path, labels: int = len(CELEBAMASK_LABELS)
) -> Labels:
    """What :func:`read_mask` makes of :func:`stored_values`; ``path`` names the file in errors.

    Raises:
        DataError: a value beyond the labels.
    """
    used = np.flatnonzero(np.bincount(values.ravel(), minlength=256))
    if palette is not None and used[-1] < len(palette):
        colours = palette[used]
        grey = colours[:, 0]
        if (colours == grey[:, None]).all() and len(set(grey.tolist())) == len(used) and grey.max() < labels:
            table = np.zeros(256, np.uint8)
            table[used] = grey
            return np.asarray(table[values], np.uint8)
    if used[-1] >= labels:
        raise DataError(
            f"{path} holds the value {used[-1]}, but labels go from 0 to {labels - 1}; a mask stores label numbers, "
            "neither colours nor 0 and 255"
        )
    return values


def stored_values(path: Path) -> tuple[Labels, NDArray[np.uint8] | None]:
    """The samples of a grey or palette PNG as they are stored, (H, W) uint8, and its palette (n, 3) RGB or None.

    Raises:
        DataError: as :func:`read_mask`, but for values beyond the labels.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"the mask {path} cannot be read: {error.strerror or error}") from error
    header = probe(data) if data.startswith(_PNG) else None
    if header is None:
        raise DataError(f"the mask {path} is no PNG; lossy and other formats do not keep labels")
    if not header.complete or data[12:16] != b"IHDR" or header.width * header.height > MAX_PIXELS:
        raise DataError(f"the mask {path} is a damaged, truncated or far too large PNG")
    depth, colour = data[24], data[25]
    if colour not in (0, 3) or depth > 8:
        kind = {2: "RGB", 4: "grey with alpha", 6: "RGBA"}.get(colour, f"{depth}-bit grey")
        raise DataError(f"the mask {path} is {kind}; save the label numbers as an 8-bit grey or palette PNG")
    palette = None
    kept = []
    position = 33
    while position < len(data):
        (length,) = struct.unpack_from(">I", data, position)
        name = data[position + 4 : position + 8]
        if name in (b"IDAT", b"IEND"):
            kept.append(data[position : position + 12 + length])
        elif name == b"PLTE":
            palette = np.frombuffer(data, np.uint8, length // 3 * 3, position + 8).reshape(-1, 3)
        position += 12 + length
        if name == b"IEND":
            break
    # The same samples under a header that calls them grey: a decoder then applies no palette.
    grey = b"IHDR" + data[16:25] + b"\0" + data[26:29]
    kept.insert(0, _PNG + struct.pack(">I", 13) + grey + struct.pack(">I", zlib.crc32(grey)))
    try:
        decoded = cv2.imdecode(np.frombuffer(b"".join(kept), np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        decoded = None
    if decoded is None or decoded.shape[:2] != (header.height, header.width) or decoded.dtype != np.uint8:
        raise DataError(f"the mask {path} is a damaged PNG")
    values = np.asarray(decoded.reshape(header.height, header.width), np.uint8)
    if depth < 8:  # greys of 1, 2 and 4 bits are spread over 0..255 by the decoder
        values //= np.uint8(255 // ((1 << depth) - 1))
    return values, palette


def check_size(mask: tuple[int, int], picture: tuple[int, int], path: Path) -> None:
    """Refuse a label image of another shape than its picture; it may be smaller or larger.

    Args:
        mask: its width and height.
        picture: width and height of the upright picture.
        path: the mask's, for the error.

    Raises:
        DataError: their aspect ratios differ.
    """
    skew = mask[0] * picture[1] / (mask[1] * picture[0])
    if not 1 / _SKEW <= skew <= _SKEW:
        raise DataError(
            f"the mask {path} is {mask[0]} x {mask[1]}, its picture {picture[0]} x {picture[1]}; "
            "they must be of one shape"
        )


def order(name: str) -> tuple[str, ...]:
    """The labels of an order that is known by name.

    Raises:
        UsageError: no such order.
    """
    if name not in LABEL_ORDERS:
        raise UsageError(f"no label order {name!r}; there are {', '.join(LABEL_ORDERS)}")
    return LABEL_ORDERS[name]


def convert(labels: Labels, source: str | Sequence[str], target: str | Sequence[str]) -> Labels:
    """A label image of one order in another, by the labels' names.

    Args:
        labels: any shape, uint8, numbers of ``source``.
        source: the order that it is in: a name of :data:`LABEL_ORDERS`, or the labels themselves.
        target: the order that is wanted; a label that it does not have becomes its first, the background.

    Raises:
        UsageError: no order of that name.
        DataError: a number beyond the source's labels.
    """
    old = order(source) if isinstance(source, str) else tuple(source)
    new = order(target) if isinstance(target, str) else tuple(target)
    if labels.size and int(labels.max()) >= len(old):
        raise DataError(f"the label image holds the value {labels.max()}, but labels go from 0 to {len(old) - 1}")
    table = np.array([new.index(name) if name in new else 0 for name in old], np.uint8)
    return np.asarray(table[labels], np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedFace:
    """A face of the published folder."""

    index: int
    """Its number, 0..29999."""
    picture: Path
    parts: Mapping[str, Path]
    """The part PNGs that are there, by label, in the order of the labels; few faces have a hat."""


def read_published(root: str | Path) -> list[PublishedFace]:
    """The faces of the published layout, by number: those whose picture or parts are there.

    Raises:
        DataError: neither folder is there, or a file in the folder of parts has an unknown name.
    """
    root = Path(root)
    if not (root / PICTURES).is_dir() or not (root / PARTS).is_dir():
        raise DataError(f"{root} is no published CelebAMask-HQ: it must hold {PICTURES}/ and {PARTS}/")
    places = {name: number for number, name in enumerate(CELEBAMASK_LABELS)}
    parts: dict[int, dict[str, Path]] = {}
    for path in (root / PARTS).glob("*/*.png"):
        number, _, label = path.stem.partition("_")
        if not number.isdecimal() or places.get(label, 0) == 0 or int(number) >= FACES:
            raise DataError(f"{path} is not named as CelebAMask-HQ's parts are, such as 00000_skin.png; remove it")
        parts.setdefault(int(number), {})[label] = path
    pictures = {int(p.stem): p for p in (root / PICTURES).glob("*.jpg") if p.stem.isdecimal() and int(p.stem) < FACES}
    return [
        PublishedFace(
            index=index,
            picture=pictures.get(index, root / PICTURES / f"{index}.jpg"),
            parts=dict(sorted(parts.get(index, {}).items(), key=lambda item: places[item[0]])),
        )
        for index in sorted(parts.keys() | pictures.keys())
    ]


def read_splits(mapping: str | Path, partition: str | Path) -> dict[Part, list[int]]:
    """CelebA's official split of the 30,000 faces: for train, val and test the faces' numbers.

    Args:
        mapping: ``CelebA-HQ-to-CelebA-mapping.txt``, with or without its header.
        partition: CelebA's ``list_eval_partition.txt``.

    Raises:
        DataError: a file is not there or malformed, names a face twice, or a face that the other does not know.
    """
    mapping, partition = Path(mapping), Path(partition)
    numbers: dict[str, Part] = {}
    names: tuple[Part, ...] = get_args(Part)
    for line, fields in _fields(partition, 2):
        if fields[1] not in ("0", "1", "2"):
            raise DataError(f"{partition} line {line}: the part is {fields[1]!r}, not 0, 1 or 2")
        numbers[fields[0]] = names[int(fields[1])]
    splits: dict[Part, list[int]] = {name: [] for name in names}
    seen: set[int] = set()
    for line, fields in _fields(mapping, 3):
        if line == 1 and fields[0] == "idx":
            continue
        if not fields[0].isdecimal() or int(fields[0]) >= FACES or int(fields[0]) in seen:
            raise DataError(f"{mapping} line {line}: {fields[0]!r} is no number of 0 to {FACES - 1}, or comes twice")
        if fields[2] not in numbers:
            raise DataError(f"{mapping} line {line}: {partition} does not know {fields[2]}")
        seen.add(int(fields[0]))
        splits[numbers[fields[2]]].append(int(fields[0]))
    return {name: sorted(indices) for name, indices in splits.items()}


def _fields(path: Path, count: int) -> Iterable[tuple[int, list[str]]]:
    for number, line in enumerate(_lines(path), 1):
        fields = line.split()
        if fields and len(fields) != count:
            raise DataError(f"{path} line {number} has {len(fields)} fields, not {count}")
        if fields:
            yield number, fields


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the list {path} cannot be read: {error}") from error
