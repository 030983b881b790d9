"""Small generated data sets: drawn faces in WIDER FACE's official layout and in COCO's form."""

import json
from pathlib import Path

import cv2
import numpy as np


def draw_face(image: np.ndarray, box: tuple[int, int, int, int], rng: np.random.Generator) -> np.ndarray:
    """Draw a face that fills the box x, y, w, h; returns its five points (5, 2)."""
    x, y, w, h = box
    skin = [int(v) for v in rng.integers(120, 240, 3)]
    cv2.ellipse(image, (x + w // 2, y + h // 2), (w // 2, h // 2), 0, 0, 360, skin, -1)
    shares = [(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8)]
    points = np.array([(x + w * u, y + h * v) for u, v in shares])
    for px, py in points:
        cv2.circle(image, (round(px), round(py)), max(min(w, h) // 12, 1), (10, 10, 10), -1)
    return points


def scene(rng: np.random.Generator, width: int = 320, height: int = 240, faces: int = 3):
    """A noisy picture with some faces in separate columns; returns it, boxes (n, 4) x y w h and points (n, 5, 2)."""
    image = cv2.resize(rng.integers(0, 110, (height // 8, width // 8, 3), np.uint8), (width, height))
    boxes, points = [], []
    for i in range(faces):
        size = int(rng.integers(24, min(width // max(faces, 1), height) - 8))
        x = i * (width // faces) + int(rng.integers(0, width // faces - size + 1))
        y = int(rng.integers(0, height - size))
        boxes.append((x, y, size, size))
        points.append(draw_face(image, boxes[-1], rng))
    return image, np.array(boxes, float).reshape(-1, 4), np.array(points, float).reshape(-1, 5, 2)


def widerface(root: Path, pictures: int = 12, seed: int = 0, split: str = "train") -> Path:
    """A data set in WIDER FACE's official layout, with RetinaFace's label.txt; one picture has no face."""
    rng = np.random.default_rng(seed)
    text, labels = [], []
    for i in range(pictures):
        key = f"0--Parade/picture_{i}.jpg"
        image, boxes, points = scene(rng, faces=0 if i == 1 else int(rng.integers(1, 4)))
        path = root / f"WIDER_{split}" / "images" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image)
        text += [key, str(len(boxes))]
        text += [" ".join(str(int(v)) for v in box) + " 0 0 0 0 0 0" for box in boxes] or ["0 0 0 0 0 0 0 0 0 0"]
        labels.append(f"# {key}")
        for box, face in zip(boxes, points, strict=True):
            numbers = [f"{v:.0f}" for v in box] + [f"{x:.2f} {y:.2f} 0.0" for x, y in face] + ["0.8"]
            labels.append(" ".join(numbers))
    split_folder = root / "wider_face_split"
    split_folder.mkdir(exist_ok=True)
    (split_folder / f"wider_face_{split}_bbx_gt.txt").write_text("\n".join(text) + "\n")
    (split_folder / f"retinaface_{split}_label.txt").write_text("\n".join(labels) + "\n")
    return root


def coco(path: Path, samples) -> Path:
    """DetectionSamples as a COCO file."""
    images, rows = [], []
    for i, s in enumerate(samples):
        images.append({"id": i, "file_name": str(s.path), "key": s.key, "width": 0, "height": 0})
        for box, points, ignored in zip(s.boxes, s.landmarks, s.ignored, strict=True):
            known = not np.isnan(points).any()
            keypoints = [v for x, y in points for v in ((float(x), float(y), 2) if known else (0, 0, 0))]
            bbox = [float(v) for v in (box[0], box[1], box[2] - box[0], box[3] - box[1])]
            row = {"id": len(rows), "image_id": i, "category_id": 1, "bbox": bbox, "iscrowd": int(ignored)}
            rows.append(row | {"keypoints": keypoints, "num_keypoints": 5 * known})
    path.write_text(json.dumps({"images": images, "annotations": rows, "categories": [{"id": 1, "name": "face"}]}))
    return path
