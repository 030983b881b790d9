"""Archives into the layout that ``datasets`` reads: verified, unpacked safely, and what has to be derived is made.

It goes on where it was killed, and does nothing where all is done, as the number of files tells. What was unpacked is
kept in ``archives/nnface.json`` by the archive's checksum, so that an archive may be removed afterwards.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nnface.curate import merging
from nnface.curate.archives import Archive, Published
from nnface.curate.checking import Memory, check, remember
from nnface.curate.download import find
from nnface.curate.unpack import unpack
from nnface.errors import DataError, DependencyError
from nnface.files import locked, write_atomic

Say = Callable[[str], None]
Advance = Callable[[str, int, int | None], None]
"""Called with what is done, how many things of it, and of how many, where that is known."""


@dataclass(kw_only=True)
class Prepared:
    """What :func:`prepare` found and did."""

    unpacked: list[str] = field(default_factory=list)
    """Archives that were unpacked now."""
    kept: list[str] = field(default_factory=list)
    """Archives that had been unpacked before."""
    problems: list[str] = field(default_factory=list)
    """One sentence for each archive that could not be used."""


def prepare(
    data: Published,
    root: str | Path,
    *,
    force: bool = False,
    say: Say = lambda sentence: None,
    advance: Advance = lambda what, done, total: None,
) -> Prepared:
    """Verify and unpack the archives of ``root/archives`` or ``root``, and make what is derived from them.

    WIDER FACE: ``WIDER_*/images``, ``wider_face_split``, ``retinaface``, ``ground_truth``; box texts that are missing
    are written from the ``.mat`` lists. FairFace: ``train`` and ``val`` beside the label files, and the pictures of
    padding 1.25 in the same way below ``padding125``. CelebAMask-HQ: merged masks and the official lists, see
    :func:`nnface.curate.merging.merge_all`.

    Args:
        data: the data set.
        root: its folder.
        force: compare every file with its archive, and write over those that are there and differ; else what was
            unpacked before is unpacked again only where files are missing.
        say: told in sentences what happens.
        advance: told how far it is.

    Raises:
        DataError: there is no such folder, or neither an archive nor the data set in it; or what is derived cannot be.
        DependencyError: the ``.mat`` lists need scipy.
        NnfaceError: another process prepares or downloads in the folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root} is no folder; nnface data download {data.name} --root {root} makes it")
    with locked(root):  # two of them would write one temporary file, and each the notes that it read before
        return _all(data, root, force, say, advance)


def _all(data: Published, root: Path, force: bool, say: Say, advance: Advance) -> Prepared:
    memory = Memory(root)
    done = Prepared()
    for archive in data.archives:
        path = find(archive, root)
        if path is None:
            if _is_unpacked(archive, root, memory):
                done.kept.append(archive.file)
            continue
        try:
            _one(archive, path, root, memory, done, force, say, advance)
        except DataError as error:
            done.problems.append(str(error))
    if not (done.unpacked or done.kept or done.problems or _LAID_OUT[data.name](root)):
        names = ", ".join(a.file for a in data.archives)
        raise DataError(
            f"{root} holds neither {data.name} nor its archives ({names}); fetch them with nnface data download "
            f"{data.name} --root {root}"
        )
    if not done.problems or done.unpacked or done.kept:
        _DERIVED[data.name](root, memory, done, force, say, advance)
    return done


def _one(
    archive: Archive, path: Path, root: Path, memory: Memory, done: Prepared, force: bool, say: Say, advance: Advance
) -> None:
    try:
        checked = check(archive, path, memory)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    remember(archive, path, checked, memory)
    ended = memory.get("unpacked", archive.file).get("sha256") == checked.sha256
    if ended and not force and _is_unpacked(archive, root, memory) and not _lacks(archive, root, memory):
        done.kept.append(archive.file)
        return
    if archive.text:
        samples: tuple[str, ...] = (_copy(archive, path, root, force),)
        files = 1
    else:
        # What differs after an unpacking that came to its end was changed by somebody since.
        ours = not ended and memory.get("unpacking", archive.file).get("sha256") == checked.sha256

        def begin() -> None:
            memory.put("unpacking", archive.file, sha256=checked.sha256)
            memory.put("unpacked", archive.file)

        result = unpack(
            path,
            root,
            holds=archive.holds,
            into=archive.into,
            ours=ours,
            force=force,
            advance=lambda count, total: advance(archive.file, count, total),
            begin=begin,
        )
        samples, files = result.samples, result.files
    memory.put("unpacked", archive.file, sha256=checked.sha256, files=files, samples=list(samples))
    done.unpacked.append(archive.file)
    say(f"{archive.file}: {files:,} files are in {root / archive.into}")


def _is_unpacked(archive: Archive, root: Path, memory: Memory) -> bool:
    samples = memory.get("unpacked", archive.file).get("samples")
    return isinstance(samples, list) and bool(samples) and all((root / str(s)).is_file() for s in samples)


def _lacks(archive: Archive, root: Path, memory: Memory) -> bool:
    """Whether fewer files lie where an archive goes than came out of it."""
    count = 0
    for name in archive.holds:
        place = root / archive.into / name
        count += place.is_file() + sum(len(files) for _, _, files in os.walk(place))
    return not archive.text and count < memory.get("unpacked", archive.file).get("files", 0)


def _copy(archive: Archive, path: Path, root: Path, force: bool) -> str:
    """A label file into its place."""
    target = root / archive.into / archive.file
    content = path.read_bytes()
    if target.is_file() and not force and target.read_bytes() != content:
        raise DataError(f"{target} is there and is not {path}; move it away, or write over it with --force")
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(target, content)
    return str(target.relative_to(root))


def _derive_widerface(root: Path, memory: Memory, done: Prepared, force: bool, say: Say, advance: Advance) -> None:
    """Box texts from the ``.mat`` lists, where a copy of the annotations has no texts."""
    folder = root / "wider_face_split"
    for split in ("train", "val"):
        lists, text = folder / f"wider_face_{split}.mat", folder / f"wider_face_{split}_bbx_gt.txt"
        if lists.is_file() and not text.exists():
            write_atomic(text, text_of_lists(lists))
            say(f"{text} was written from {lists.name}")


def text_of_lists(path: str | Path) -> str:
    """WIDER FACE's ``wider_face_train.mat`` or ``wider_face_val.mat`` as the official text, line by line the same.

    Raises:
        DataError: not such a file, or a damaged one.
        DependencyError: scipy is not installed.
    """
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise DependencyError("reading WIDER FACE's .mat lists needs scipy: pip install 'nnface[eval]'") from error
    flags = [f"{name}_label_list" for name in ("blur", "expression", "illumination", "invalid", "occlusion", "pose")]
    lines: list[str] = []
    try:
        content = loadmat(str(path))
        columns = [content["face_bbx_list"], *(content[name] for name in flags)]
        for number, (event, names) in enumerate(
            zip(content["event_list"][:, 0], content["file_list"][:, 0], strict=True)
        ):
            for index, name in enumerate(names[:, 0]):
                cells: list[Any] = [np.asarray(column[number, 0][index, 0]) for column in columns]
                rows = np.concatenate([cells[0].reshape(-1, 4), *(c.reshape(-1, 1) for c in cells[1:])], 1)
                rows = rows.astype(np.int64)
                lines += [f"{event[0]}/{name[0]}.jpg", str(len(rows))]
                lines += ["".join(f"{value} " for value in row) for row in rows] or ["0 0 0 0 0 0 0 0 0 0 "]
    except Exception as error:  # scipy raises whatever a damaged file leads it to
        raise DataError(f"{path} is no list of WIDER FACE or is damaged; take it anew") from error
    return "".join(f"{line}\n" for line in lines)


def _derive_fairface(root: Path, memory: Memory, done: Prepared, force: bool, say: Say, advance: Advance) -> None:
    """The label files beside the pictures of padding 1.25 too."""
    folder = root / "padding125"
    if not folder.is_dir():
        return
    for part in ("train", "val"):
        labels = root / f"fairface_label_{part}.csv"
        if labels.is_file() and not (folder / labels.name).exists():
            write_atomic(folder / labels.name, labels.read_bytes())


def _derive_celebamask(root: Path, memory: Memory, done: Prepared, force: bool, say: Say, advance: Advance) -> None:
    """Merged masks and lists; skipped where they were made from these archives and are all there."""
    archives = sorted([*done.unpacked, *done.kept])
    known = memory.get("derived", "celebamask")
    count = _count(root / "masks")
    if archives and not done.unpacked and not force and known == {"archives": archives, "masks": count}:
        return
    if not (root / "CelebAMask-HQ-mask-anno").is_dir():  # prepared already, without the parts
        return
    merged = 0

    def step() -> None:
        nonlocal merged
        merged += 1
        advance("masks", merged, None)

    result = merging.merge_all(root, force=force, advance=step)
    if archives:
        memory.put("derived", "celebamask", archives=archives, masks=_count(root / "masks"))
    say(f"{root / 'masks'}: {result.merged:,} label images were merged, {result.kept:,} were there")
    for note in result.notes:
        say(note)


def _count(folder: Path) -> int:
    return sum(1 for _ in folder.glob("*.png")) if folder.is_dir() else 0


def _any(*names: str) -> Callable[[Path], bool]:
    return lambda root: any((root / name).exists() for name in names)


_DERIVED = {"widerface": _derive_widerface, "fairface": _derive_fairface, "celebamask": _derive_celebamask}
_LAID_OUT = {
    "widerface": _any("wider_face_split", "WIDER_train", "WIDER_val", "train/label.txt"),
    "fairface": _any("fairface_label_train.csv", "fairface_label_val.csv"),
    "celebamask": _any("CelebAMask-HQ-mask-anno", "masks"),
}
"""By data set, whether something of it is there, though no archive."""
