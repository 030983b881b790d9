#!/usr/bin/env python3
"""Label the pictures that the bundled detectors are trained on: ground truth and a teacher's labels as COCO JSON.

    tools/detector_data.py SOURCE IMAGES... --peers ../shared/peers --out FILE.json [--truth FILE] [--landmarks FILE]

SOURCE is ``wider`` (official text in --truth, RetinaFace's label.txt in --landmarks), ``masked`` (faces.csv in --truth)
``pseudo`` (no truth: the teacher's boxes are the labels), ``portraits`` (the same for pictures that a face fills, which
the teacher sees nine at a time: it misses faces larger than half of its input) or ``animals`` (cats, dogs and people
with them, whose faces a csv in --truth names: the teacher takes every fifth dog for a person). What is written:

* a box of the truth is a face; one that is marked invalid is an ignore region (``iscrowd`` 1);
* the teacher's landmarks are given to the faces that it finds at IoU 0.5; people's own landmarks come first;
* with truth, a teacher's box that matches no face is an ignore region: WIDER leaves many faces unlabelled;
* without truth, boxes from 0.5 are faces, weaker ones from 0.2 ignore regions;
* on animals, what the csv does not name is background, but for boxes of less than 24 pixels.

The teacher is SCRFD-2.5G (InsightFace, non-commercial research only) on the whole picture at 640 and, where a picture
is larger than 900 pixels, on four overlapping quarters as well, and on every picture reduced to a third, for faces that
fill it. Needs the small wheel only, and ``../shared/peers``.
"""

import argparse
import csv
import json
import sys
from pathlib import Path

import cv2
import numpy as np

from nnface.geometry.boxes import iou, nms

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
POSITIVE, WEAK = 0.5, 0.2
TINY = 24
"""Pixels: nobody can say whether a smaller face behind an animal is a person's."""
NOBODY = np.zeros((0, 4), np.float32), np.zeros(0, bool)


def teacher_labels(detect, image):
    """Boxes (n, 4), scores (n,) and points (n, 5, 2) in the picture's pixels."""
    height, width = image.shape[:2]
    windows = [(0, 0, width, height)]
    if max(height, width) > 900:
        w, h = round(width * 0.6), round(height * 0.6)
        windows += [(x, y, w, h) for x in (0, width - w) for y in (0, height - h)]
    found = []
    for index, (x, y, w, h) in enumerate(windows):
        boxes, scores, points = detect(image[y : y + h, x : x + w])
        inside = np.ones(len(boxes), bool)
        if index:  # a face cut by the window's edge is left to the whole picture
            edge = np.array([x > 0, y > 0, x + w < width, y + h < height])
            near = np.stack([boxes[:, 0] < 4, boxes[:, 1] < 4, boxes[:, 2] > w - 4, boxes[:, 3] > h - 4], 1)
            inside = ~(near & edge).any(1)
        shift = np.array([x, y], np.float32)
        found.append((boxes[inside] + np.tile(shift, 2), scores[inside], points[inside] + shift))
    found += portrait_labels(detect, [image])
    boxes, scores, points = (np.concatenate(part).astype(np.float32) for part in zip(*found, strict=True))
    keep = nms(boxes, scores, 0.45)
    return boxes[keep], scores[keep], points[keep]


def portrait_labels(detect, images):
    """The teacher's labels of up to nine pictures, seen together as a 3 x 3 sheet of 640 pixels."""
    cell = 640 // 3
    canvas = np.full((640, 640, 3), 114, np.uint8)
    factors = []
    for i, image in enumerate(images):
        factor = cell / max(image.shape[:2])
        small = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)[:cell, :cell]
        y, x = i // 3 * cell, i % 3 * cell
        canvas[y : y + small.shape[0], x : x + small.shape[1]] = small
        factors.append(factor)
    boxes, scores, points = detect(canvas)
    place = ((boxes[:, :2] + boxes[:, 2:]) / 2 // cell).astype(int)
    owner = place[:, 1] * 3 + place[:, 0]
    for i, factor in enumerate(factors):
        mine = owner == i
        shift = np.array([i % 3 * cell, i // 3 * cell], np.float32)
        yield (boxes[mine] - np.tile(shift, 2)) / factor, scores[mine], (points[mine] - shift) / factor


def labelled(detect, source, paths):
    """Each picture that decodes, and the teacher's labels for it."""
    count = 9 if source == "portraits" else 1
    for start in range(0, len(paths), count):
        loaded = [(path, cv2.imread(str(path))) for path in paths[start : start + count]]
        for path, image in loaded:
            if image is None:
                print(f"left out, does not decode: {path}", file=sys.stderr)
        loaded = [(path, image) for path, image in loaded if image is not None]
        if source == "portraits":
            labels = portrait_labels(detect, [image for _, image in loaded])
        elif source == "animals":
            labels = (detect(image) for _, image in loaded)
        else:
            labels = (teacher_labels(detect, image) for _, image in loaded)
        yield from zip(loaded, labels, strict=True)


def read_wider(path):
    """{key without suffix: (boxes xyxy (n, 4), invalid (n,))} from the official text."""
    lines = Path(path).read_text().splitlines()
    truths, i = {}, 0
    while i < len(lines):
        key, count = lines[i].rsplit(".", 1)[0], int(lines[i + 1])
        rows = np.array([line.split() for line in lines[i + 2 : i + 2 + count]], np.float32).reshape(count, -1)
        boxes = rows[:, :4] if count else np.zeros((0, 4), np.float32)
        invalid = (rows[:, 7] > 0) if count else np.zeros(0, bool)
        i += 2 + max(count, 1)
        truths[key] = (np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1), invalid)
    return truths


def read_landmarks(path):
    """{key without suffix: (boxes xyxy, points (n, 5, 2))} of the faces with points in RetinaFace's label.txt."""
    result, key = {}, ""
    for line in Path(path).read_text().splitlines():
        if line.startswith("#"):
            key = line[2:].rsplit(".", 1)[0]
            continue
        v = [float(x) for x in line.split()]
        if v[4] < 0:
            continue
        points = np.array(v[4:19]).reshape(5, 3)[:, :2]
        result.setdefault(key, []).append(([v[0], v[1], v[0] + v[2], v[1] + v[3]], points))
    return {k: (np.array([b for b, _ in v], np.float32), np.array([p for _, p in v])) for k, v in result.items()}


def read_masked(path):
    """{file: (boxes xyxy, none invalid)} from the csv of the masked faces."""
    rows = {}
    for row in csv.DictReader(Path(path).read_text().splitlines()):
        rows.setdefault(row["file"].rsplit(".", 1)[0], []).append([float(row[k]) for k in ("x1", "y1", "x2", "y2")])
    return {k: (np.array(v, np.float32), np.zeros(len(v), bool)) for k, v in rows.items()}


def annotate(truth, people, labels, doubtful=np.inf):
    """Rows (box, ignored, points or None) for one picture; teacher's boxes up to ``doubtful`` high may be faces."""
    boxes, scores, points = labels
    if truth is None:
        rows = [(b, s < POSITIVE, p) for b, s, p in zip(boxes, scores, points, strict=True) if s >= WEAK]
        return [row for row in rows if min(row[0][2:] - row[0][:2]) >= 2]
    faces, invalid = truth
    overlaps = iou(faces, boxes) if len(faces) and len(boxes) else np.zeros((len(faces), len(boxes)))
    known = iou(faces, people[0]) if people is not None and len(faces) else np.zeros((len(faces), 0))
    rows = []
    for i, face in enumerate(faces):
        chosen = None
        if known.shape[1] and known[i].max() > 0.9:
            chosen = people[1][known[i].argmax()]
        elif len(boxes) and overlaps[i].max() >= 0.5:
            chosen = points[overlaps[i].argmax()]
        degenerate = min(face[2:] - face[:2]) < 1
        if not degenerate:
            rows.append((face, bool(invalid[i]), chosen))
    for j, box in enumerate(boxes):
        unknown = scores[j] >= WEAK and box[3] - box[1] < doubtful
        if unknown and (not len(faces) or overlaps[:, j].max() < 0.4):
            rows.append((box, True, None))
    return rows


def main():
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", choices=["wider", "masked", "pseudo", "portraits", "animals"])
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--truth", type=Path)
    parser.add_argument("--landmarks", type=Path)
    parser.add_argument("--take", type=int, default=10**9, help="the first N pictures by name")
    parser.add_argument("--with-faces", action="store_true", help="leave out pictures without a face")
    options = parser.parse_args()
    sys.path.insert(0, str(options.peers))
    import peers

    cv2.setNumThreads(1)
    detect = peers.create("scrfd_2.5g", size=640, min_score=0.1)
    readers = {"wider": read_wider, "masked": read_masked, "animals": read_masked}
    truths = readers.get(options.source, lambda _: None)(options.truth)
    people = read_landmarks(options.landmarks) if options.landmarks else {}
    events = {}
    if options.source == "wider":  # a flat folder of WIDER pictures: the event follows from the official text
        events = {key.split("/")[1]: key for key in truths}

    images, annotations = [], []
    wanted = {}
    for folder in options.images:
        for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)[: options.take]:
            key = path.relative_to(folder).with_suffix("").as_posix()
            key = events.get(path.stem, key)
            lookup = f"images/{path.stem}" if options.source == "masked" else key
            if options.source == "animals":
                truths.setdefault(lookup, NOBODY)
            if truths is None or lookup in truths:
                wanted.setdefault(key, (path, lookup))

    images, annotations = [], []
    keys = {path: (key, lookup) for key, (path, lookup) in wanted.items()}
    for (path, image), labels in labelled(detect, options.source, list(keys)):
        key, lookup = keys[path]
        doubtful = TINY if options.source == "animals" else np.inf
        rows = annotate(truths and truths[lookup], people.get(key), labels, doubtful)
        if options.with_faces and all(ignored for _, ignored, _ in rows):
            continue
        number = len(images)
        images.append(
            {
                "id": number,
                "key": key,
                "file_name": str(path.resolve()),
                "width": image.shape[1],
                "height": image.shape[0],
            }
        )
        for box, ignored, points in rows:
            x1, y1, x2, y2 = (round(float(v), 2) for v in box)
            row = {"id": len(annotations), "image_id": number, "category_id": 1, "iscrowd": int(ignored)}
            row |= {"bbox": [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)], "area": round((x2 - x1) * (y2 - y1), 2)}
            visible = (
                [[round(float(px), 2), round(float(py), 2), 2] for px, py in points]
                if points is not None
                else [[0, 0, 0]] * 5
            )
            row |= {
                "keypoints": [value for point in visible for value in point],
                "num_keypoints": 0 if points is None else 5,
            }
            annotations.append(row)
    names = ["left_eye", "right_eye", "nose", "mouth_left", "mouth_right"]
    category = {"id": 1, "name": "face", "keypoints": names}
    options.out.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [category]}))
    faces = sum(not a["iscrowd"] for a in annotations)
    print(f"{options.out}: {len(images)} pictures, {faces} faces, {len(annotations) - faces} ignore regions")


if __name__ == "__main__":
    main()
