"""An exported detector with nothing but onnxruntime and numpy: python onnxruntime_only.py MODEL.onnx PICTURE.

For detectors of the coding "distance" and of free size, as the bundled ones are: nnface/zoo/weights/default.onnx.
"""

import json
import sys

import numpy as np
import onnxruntime


def detect(session: onnxruntime.InferenceSession, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Faces in (H, W, 3) uint8 BGR, best first: boxes (n, 4) and landmarks (n, 5, 2) in its pixels, scores (n,)."""
    spec = json.loads(session.get_modelmeta().custom_metadata_map["nnface"])
    plan, coding = spec["input"], spec["detection"]
    assert plan["fit"] == "letterbox" and plan["width"] is None and coding["coding"] == "distance"
    # Bilinear as in OpenCV; a picture of more than twice the size is best reduced first.
    scale = plan["size"] / max(image.shape[:2])
    sides = [round(side * scale) for side in image.shape[:2]]
    at = [np.clip((np.arange(n) + 0.5) / scale - 0.5, 0, m - 1) for n, m in zip(sides, image.shape[:2], strict=True)]
    (y, x), (below, right) = [a.astype(int) for a in at], [np.ceil(a).astype(int) for a in at]
    rows = image[y] + (at[0] - y)[:, None, None] * (image[below].astype(float) - image[y])
    pixels = rows[:, x] + (at[1] - x)[:, None] * (rows[:, right] - rows[:, x])
    if plan["color"] == "rgb":
        pixels = pixels[..., ::-1]
    height, width = (-(-side // plan["multiple"]) * plan["multiple"] for side in sides)
    batch = np.zeros((1, 3, height, width), np.float32)  # the padding is the mean, which is 0 here
    batch[0, :, : sides[0], : sides[1]] = ((pixels - plan["mean"]) / plan["std"]).transpose(2, 0, 1)
    scores, boxes, landmarks = (output[0] for output in session.run(["scores", "boxes", "landmarks"], {"input": batch}))

    levels = [(s, *np.mgrid[: -(-height // s), : -(-width // s)]) for s in coding["strides"]]
    centres = np.concatenate([np.stack([(x.ravel() + 0.5) * s, (y.ravel() + 0.5) * s], 1) for s, y, x in levels])
    strides = np.concatenate([np.full(x.size, s) for s, _, x in levels])[:, None]
    corners = np.concatenate([centres - boxes[:, :2] * strides, centres + boxes[:, 2:] * strides], 1)
    points = centres[:, None] + landmarks.reshape(-1, 5, 2) * strides[:, None]
    order = [i for i in np.argsort(-scores, kind="stable") if scores[i] >= coding["min_score"]]
    kept: list[int] = []
    while order:  # non-maximum suppression
        kept.append(order.pop(0))
        x1, y1, x2, y2 = corners[kept[-1]]
        others = corners[order]
        inner = np.minimum(others[:, 2:], (x2, y2)) - np.maximum(others[:, :2], (x1, y1))
        shared = np.maximum(inner, 0).prod(1)
        union = (x2 - x1) * (y2 - y1) + (others[:, 2:] - others[:, :2]).prod(1) - shared
        order = [i for i, s, u in zip(order, shared, union, strict=True) if s <= coding["nms_iou"] * u]
    return corners[kept] / scale, points[kept] / scale, scores[kept]


if __name__ == "__main__":
    import cv2  # any decoder will do

    for box, face, score in zip(
        *detect(onnxruntime.InferenceSession(sys.argv[1]), cv2.imread(sys.argv[2])), strict=True
    ):
        print(f"{score:.2f}", box.round(1).tolist(), face.round(1).tolist())
