"""Frames of videos and cameras in, annotated videos out. Sound is not carried over."""

import contextlib
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NoReturn

import cv2
import numpy as np
from numpy.typing import NDArray

from nnface.errors import ImageError, NnfaceError
from nnface.files import atomic_path
from nnface.predict.source import is_camera

# A broken file gets one sentence of ours; FFmpeg inside OpenCV would add lines of its own on stderr.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture of a video."""

    index: int
    """From 0."""
    time: float
    """Seconds from the start."""
    image: NDArray[np.uint8]
    """(height, width, 3), BGR, upright."""


class Video:
    """A video file, or a camera by its number as ``camera:0``: iterate over it for the frames.

    Raises:
        ImageError: it is not there, or not a video that this OpenCV reads, or its name is not UTF-8; while iterating:
            no frame could be read.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.camera = camera = is_camera(path)
        if not camera and not Path(path).is_file():
            raise ImageError(f"{path}: no such file")
        self._capture = cv2.VideoCapture(int(path[7:]) if camera else _for_opencv(path))
        if not self._capture.isOpened():
            self._capture.release()
            what = "no such camera" if camera else "not a video that can be read"
            raise ImageError(f"{path}: {what}")
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = float(fps) if 0 < fps < 1000 else 25.0
        """Frames per second; 25 where the file does not say."""
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.count = int(count) if not camera and 0 < count < 1e9 else None
        """About how many frames there are, where the file says."""

    def __iter__(self) -> Iterator[Frame]:
        try:
            index, seconds, begin = 0, 0.0, time.monotonic()
            while True:
                good, image = self._capture.read()
                if not good:
                    break
                # A camera gives what it sees when it is asked; a file's frames need not be evenly spaced.
                seconds = time.monotonic() - begin if self.camera else self._told(index, seconds)
                if image.ndim == 2:
                    image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
                yield Frame(index, round(seconds, 3), np.asarray(image, np.uint8))
                index += 1
            if not index:
                raise ImageError(f"{self.path}: no frame of the video can be read")
        finally:
            self._capture.release()

    def _told(self, index: int, last: float) -> float:
        """When the file shows the frame that was read; where it tells nothing better, as if they were evenly spaced."""
        told = float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000
        return told if index and math.isfinite(told) and told > last else max(last, index / self.fps)


def _for_opencv(path: str | Path) -> str:
    """The name that OpenCV is told. From the root on: FFmpeg inside it would take ``12:30.mp4`` for a protocol.

    Raises:
        ImageError: it is not UTF-8, of which OpenCV would die.
    """
    place = os.path.abspath(path)  # noqa: PTH100 - Path.resolve would follow links
    try:
        place.encode()
    except UnicodeEncodeError as error:
        raise ImageError(f"{path}: of videos the whole path has to be UTF-8; rename it") from error
    return place


class VideoWriter:
    """Writes an MP4 (MPEG-4 part 2), whole or not at all; a context manager.

    Args:
        path: of the video.
        fps: frames per second.
        endless: for a camera, which ends by Ctrl-C alone: what is there then is the whole.

    Raises:
        NnfaceError: the folder cannot be written, a name is not UTF-8, the disk is full, this OpenCV cannot write
            videos (of that size), or the size of the pictures changes.
    """

    def __init__(self, path: Path, fps: float, endless: bool = False) -> None:
        self.path, self.fps, self.endless = path, fps, endless
        self._writer: cv2.VideoWriter | None = None
        _for_opencv(path)
        self._exit = contextlib.ExitStack()
        self._temporary = self._exit.enter_context(atomic_path(path))
        self._size, self._count = (0, 0), 0
        self._failure: NnfaceError | None = None
        try:
            self._temporary.touch()  # OpenCV does not say why it cannot write
        except OSError as error:
            raise NnfaceError(f"cannot write {path}: {error.strerror or error}") from error

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.release()
            if self._failure is not None:  # it was told when it was raised, also where that was caught
                self._exit.__exit__(NnfaceError, self._failure, None)
                return
            if self.endless and isinstance(error, KeyboardInterrupt | GeneratorExit):
                kind = error = where = None
            if error is None and self._readable() < self._count:
                failure = NnfaceError(f"cannot write {self.path}: the video came out broken; is the disk full?")
                self._exit.__exit__(NnfaceError, failure, None)
                raise failure
        self._exit.__exit__(kind, error, where)

    def write(self, image: NDArray[np.uint8]) -> None:
        """Append one (height, width, 3) BGR picture, of the same size as the first.

        After an error there will be no video, whether the error is caught or not.
        """
        size = (image.shape[1], image.shape[0])
        if self._writer is None:
            self._size = size
            fourcc = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(_for_opencv(self._temporary), fourcc, self.fps, size)
            if not self._writer.isOpened():
                self._fail(f"this OpenCV cannot encode MP4 videos of {size[0]} x {size[1]} pixels")
        if size != self._size:  # OpenCV would leave the picture out in silence
            before, now = (f"{width} x {height}" for width, height in (self._size, size))
            self._fail(f"the size of the pictures changes from {before} to {now} after {self._count} of them")
        self._writer.write(image)
        self._count += 1

    def _fail(self, problem: str) -> NoReturn:
        self._failure = NnfaceError(f"cannot write {self.path}: {problem}")
        raise self._failure

    def _readable(self) -> int:
        """The frames that what was written says it has: OpenCV writes on in silence where a disk is full."""
        capture = cv2.VideoCapture(_for_opencv(self._temporary))
        try:
            return int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        finally:
            capture.release()
