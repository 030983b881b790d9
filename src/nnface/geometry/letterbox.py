"""How a picture lies in the network's input, and the exact way back. numpy only."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Letterbox:
    """A picture, scaled into the upper left corner of a canvas.

    Coordinates are continuous: pixel i covers i..i+1, so that ``cv2.resize`` (which maps the pixels' centres,
    (i + 0.5) * scale - 0.5) is a plain multiplication: canvas = (picture - (left, top)) * (scale_x, scale_y). The two
    scales are one and the same, to which the pixels are sampled exactly (``cv2.resize`` with ``fx`` and ``fy``, as the
    reference projects call it), so that rounding a side to whole pixels distorts nothing; they differ where a picture
    is stretched, or so narrow that its short side would vanish.
    """

    width: int
    """Width of the canvas, the network's input."""
    height: int
    inner_width: int
    """Width of the part that the picture fills; the rest, right and below, is padding."""
    inner_height: int
    scale_x: float
    scale_y: float
    left: float = 0.0
    """Where the canvas's corner lies in the picture: not 0 for a tile of it."""
    top: float = 0.0

    def boxes(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, 4) x1 y1 x2 y2 in the picture's pixels to the canvas's."""
        return self.points(boxes.reshape(-1, 2, 2)).reshape(-1, 4)

    def points(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """(..., 2) x y in the picture's pixels to the canvas's."""
        return ((points - (self.left, self.top)) * (self.scale_x, self.scale_y)).astype(np.float32)

    def boxes_back(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, 4) x1 y1 x2 y2 in the canvas's pixels to the picture's."""
        return self.points_back(boxes.reshape(-1, 2, 2)).reshape(-1, 4)

    def points_back(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """(..., 2) x y in the canvas's pixels to the picture's."""
        return (points / (self.scale_x, self.scale_y) + (self.left, self.top)).astype(np.float32)

    def within(self, factor: float, left: float, top: float) -> "Letterbox":
        """The same for a picture of which the given one is a part at 1/``factor`` of its scale, from (left, top)."""
        return Letterbox(
            self.width,
            self.height,
            self.inner_width,
            self.inner_height,
            self.scale_x / factor,
            self.scale_y / factor,
            self.left * factor + left,
            self.top * factor + top,
        )


def fit(width: int, height: int, size: int | None, multiple: int) -> Letterbox:
    """Scale the long side to ``size`` (small pictures are enlarged; None: leave the scale) and pad to ``multiple``.

    No side gets shorter than a pixel, however extreme the aspect ratio.
    """
    scale = 1.0 if size is None else size / max(width, height)
    inner_width, scale_x = _scaled(width, scale)
    inner_height, scale_y = _scaled(height, scale)
    canvas_width, canvas_height = (-(-side // multiple) * multiple for side in (inner_width, inner_height))
    return Letterbox(canvas_width, canvas_height, inner_width, inner_height, scale_x, scale_y)


def fit_fixed(width: int, height: int, canvas_width: int, canvas_height: int) -> Letterbox:
    """Scale by one factor until the picture just fits a canvas of fixed size; the rest is padding."""
    scale = min(canvas_width / width, canvas_height / height)
    inner_width, scale_x = _scaled(width, scale)
    inner_height, scale_y = _scaled(height, scale)
    return Letterbox(canvas_width, canvas_height, inner_width, inner_height, scale_x, scale_y)


def _scaled(side: int, scale: float) -> tuple[int, float]:
    """A side in whole pixels (rounded as OpenCV does), and its scale."""
    whole = round(side * scale)
    return (whole, scale) if whole else (1, 1 / side)


def stretch(width: int, height: int, canvas_width: int, canvas_height: int) -> Letterbox:
    """Squash the picture to the canvas, whatever that does to its aspect ratio (Ultra-Light)."""
    return Letterbox(
        canvas_width, canvas_height, canvas_width, canvas_height, canvas_width / width, canvas_height / height
    )
