"""Pictures and videos in, results out in input order, on all cores and in flat memory.

Each worker thread takes a picture through the whole chain (read, prepare, run the network on one core, select). The
decoder, OpenCV and ONNX Runtime all release the interpreter, nothing is handed from thread to thread, and no core waits
for another; on a CPU that beats a pipeline of stages around one network that has all cores.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import cv2

from nnface.errors import ImageError, UsageError
from nnface.image import Pixels, decode, load
from nnface.predict.analyzer import Analyzer
from nnface.predict.chips import check_chip
from nnface.predict.detector import Detector, Prepared
from nnface.predict.video import Frame, Video
from nnface.processors import physical_cores
from nnface.results import Faces

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Failure:
    """A picture that could not be read, and why, in one sentence that names it."""

    reason: str


_UNREAD = Failure("not read yet")


def ordered(
    function: Callable[[T], R], items: Iterable[T], workers: int, *, ahead: int = 4
) -> Generator[R, None, None]:
    """``map`` in threads: results in the order of ``items``, of which ``ahead`` for each worker are in flight.

    A slow item leaves the other workers without work once they are so far ahead of it; what is in flight is in memory,
    as items, then as results. ``items`` is drawn from in the caller's thread. What ``function`` raises is raised here,
    in its turn; then, or when the caller stops early (or presses Ctrl-C), what has not begun is dropped and what has
    begun is awaited.
    """
    window = ahead * workers
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(workers, "nnface") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= window:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def pictures(
    detector: Detector | Analyzer,
    paths: Iterable[str],
    *,
    workers: int | None = None,
    batch: int | None = None,
    load: Callable[[str], bytes] = load,
) -> Generator[Faces | Failure, None, None]:
    """The faces of each picture file, in order.

    Args:
        detector: one that was opened with ``threads=1``, where there are several workers; an :class:`Analyzer` tells
            attributes, or parts, too.
        paths: the files; drawn from as the work goes on.
        workers: threads; by default one for each core.
        batch: pictures that a worker takes at a time; those of one shape go through the network together. By default
            1 on a CPU, where more are no quicker and need more memory, and 16 elsewhere; 8 where faces are classified
            alone, which is quicker for many at once.
        load: gives a file's bytes by its path; by default from this machine's disk. Raises ImageError as
            :func:`nnface.image.load`, and is called in the threads.

    Yields:
        for each path its :class:`Faces`, or a :class:`Failure` for a file that cannot be read.
    """
    classified = isinstance(detector, Analyzer) and detector.segmenter is None
    on_cpu = detector.runner.device in ("cpu", "openvino")
    batch = batch or (16 if not on_cpu else 8 if classified else 1)

    def work(group: list[str]) -> list[Faces | Failure]:
        if isinstance(detector, Analyzer):
            return _analyze_files(detector, group, load)
        return _detect_files(detector, group, load)

    # Names and faces take no room, so that a huge PNG in front may be overtaken by many; label images do.
    ahead = 4 if isinstance(detector, Analyzer) and detector.segmenter is not None else 64
    for results in ordered(work, _groups(paths, batch), workers or physical_cores(), ahead=ahead):
        yield from results


def video(
    detector: Detector | Analyzer, clip: Video, *, workers: int | None = None
) -> Generator[tuple[Frame, Faces], None, None]:
    """The frames of a video with their faces, in order.

    Raises:
        ImageError: no frame can be read.
    """
    return ordered(lambda frame: (frame, detector(frame.image)), clip, workers or physical_cores())


def _detect_files(detector: Detector, paths: list[str], load: Callable[[str], bytes]) -> list[Faces | Failure]:
    """The faces of a few picture files; those whose inputs have one shape go through the network as one batch."""
    results: list[Faces | Failure] = []
    waiting: list[tuple[int, Prepared]] = []
    for path in paths:
        try:
            if detector.tile is not None:  # a picture of many inputs
                results.append(detector(decode(load(path), path)))
                continue
            picture = decode(load(path), path, detector.needed_side)
            waiting.append((len(results), detector.prepare(picture)))
            results.append(_UNREAD)
        except ImageError as error:
            results.append(Failure(str(error)))
        except MemoryError:
            results.append(_too_large(path))
        except (OSError, cv2.error) as error:
            results.append(Failure(f"{path} cannot be read: {' '.join(str(error).split())}"))
    try:
        found: Sequence[Faces | Failure] = detector.run([prepared for _, prepared in waiting])
    except MemoryError:
        found = [_too_large(paths[number]) for number, _ in waiting]
    for (number, _), faces in zip(waiting, found, strict=True):
        results[number] = faces
    return results


def _too_large(path: str) -> Failure:
    return Failure(f"{path} needs more memory than there is; a smaller --size, --batch or --threads needs less")


def _analyze_files(analyzer: Analyzer, paths: list[str], load: Callable[[str], bytes]) -> list[Faces | Failure]:
    """The faces of a few picture files with attributes or parts; all faces share the batches of what tells of them."""
    results: list[Faces | Failure] = []
    waiting: list[tuple[int, Pixels]] = []
    for path in paths:
        try:
            pixels = decode(load(path), path).pixels
            if analyzer.detector is None:
                check_chip(pixels)
            waiting.append((len(results), pixels))
            results.append(_UNREAD)
        except ImageError as error:
            results.append(Failure(str(error)))
        except UsageError as error:
            results.append(Failure(f"{path}: {error}"))
        except (OSError, MemoryError, cv2.error) as error:
            reason = " ".join(str(error).split()) or "not enough memory"
            results.append(Failure(f"{path} cannot be read: {reason}"))
    try:
        found: Sequence[Faces | Failure] = analyzer.batch([pixels for _, pixels in waiting])
    except MemoryError:
        found = [_too_large(paths[number]) for number, _ in waiting]
    for (number, _), faces in zip(waiting, found, strict=True):
        results[number] = faces
    return results


def _groups(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while group := list(islice(iterator, size)):
        yield group
