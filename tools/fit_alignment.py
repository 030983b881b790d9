#!/usr/bin/env python3
"""Where five landmarks, and the box, lie in a data set's pictures of one face, and how a chip comes nearest to them.

    tools/fit_alignment.py fairface:DIR|celebamask:DIR [--detector default] [--chips 2000]

Pictures of ``train`` that are not kept for choosing are laid into larger ones and found by the detector; what it finds
counts as it is and mirrored, so that its habits cancel out. Printed are

* the medians of the landmarks and the margin about the box: ``points`` and ``margin`` of an AlignmentSpec;
* the weights of its ``correction`` (``geometry.align.corrected``) by least squares that count far outliers less:
  pictures that the data set's own makers misplaced are no example;
* how far chips lie from pictures of the tenth kept for choosing, by the box, by the landmarks and corrected: medians
  and roots of the mean square of the shifts of the middle, in sides, of the logarithm of the side, and of the turn.

The result is FAIRFACE_ALIGNMENT in models/classifier.py. (CELEBAMASK_ALIGNMENT in models/parser.py is older.)
"""

import argparse
import json

import cv2
import numpy as np

from nnface import Detector, read_image
from nnface.datasets import celebamask, fairface
from nnface.datasets.samples import split
from nnface.geometry.align import chip_of_box, chip_of_landmarks, corrected, readings

MIRRORED = [1, 0, 2, 4, 3]
OUTLIER = 0.03  # sides: from here on a face weighs less
RIDGE = 0.1  # what is left of five points in a chip that fits them is nearly dependent: keeps weights small


def found(samples, detector, rng):
    """Landmarks (n, 5, 2) and boxes (n, 4) of the faces found, in sides of their pictures and from their corners."""
    points, boxes = [], []
    for sample, other in zip(samples, np.roll(np.arange(len(samples)), 1), strict=True):
        scene = cv2.GaussianBlur(cv2.resize(read_image(samples[other].path), (640, 480)), (0, 0), 12)
        side = int(rng.integers(112, 301))
        corner = np.array([rng.integers(0, 640 - side), rng.integers(0, 480 - side)])
        part = cv2.resize(read_image(sample.path), (side, side), interpolation=cv2.INTER_AREA)
        scene[corner[1] : corner[1] + side, corner[0] : corner[0] + side] = part
        faces = detector(scene)
        distances = np.abs((faces.boxes[:, :2] + faces.boxes[:, 2:]) / 2 - corner - side / 2).max(1, initial=0)
        if len(faces) and distances.min() < side / 4:
            nearest = int(distances.argmin())
            points.append((faces.landmarks[nearest] - corner) / side)
            boxes.append((faces.boxes[nearest] - np.tile(corner, 2)) / side)
    points, boxes = np.array(points), np.array(boxes)
    mirrored = np.array([1, 0]) - points[:, MIRRORED] * [1, -1]
    swapped = np.array([1, 0, 1, 0]) - boxes[:, [2, 1, 0, 3]] * [1, -1, 1, -1]
    return np.concatenate([points, mirrored]), np.concatenate([boxes, swapped])


def displacement(transform):
    """What a correction of this chip of size 1 would have to be for it to be the whole picture [0, 1]."""
    x, y = transform @ (0.5, 0.5, 1) - 0.5
    scale, turn = np.hypot(*transform[:, 0]), np.arctan2(transform[1, 0], transform[0, 0])
    return x, y, np.log(scale), -turn


def fitted(values, wanted):
    """(4, 15) weights: least squares, each face weighing the less the farther it stays off, repeated to rest."""
    weight = np.ones(len(values))
    ridge = RIDGE * np.diag([1.0] * (values.shape[1] - 1) + [0.0])
    for _ in range(20):
        weighed = values * weight[:, None]
        rows = np.linalg.solve(weighed.T @ values + ridge, weighed.T @ wanted).T
        left = wanted - values @ rows.T
        weight = 1 / np.sqrt(1 + (np.linalg.norm(left[:, :3], axis=1) / OUTLIER) ** 2)
    return rows


def main():
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="NAME:DIR")
    parser.add_argument("--detector", default="default")
    parser.add_argument("--chips", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    name, _, place = options.data.partition(":")
    rng = np.random.default_rng(0)
    detector = Detector(options.detector, threads=options.threads)
    some = []
    for part in split({"fairface": fairface.read, "celebamask": celebamask.read}[name](place)):
        chosen = rng.choice(len(part), min(options.chips, len(part)), replace=False)
        some.append(found([part[i] for i in chosen], detector, rng))
        print(f"{len(some[-1][0]) // 2} faces found in {len(chosen)} pictures")
    (points, boxes), tenth = some
    template = np.median(points, 0).round(3)
    margin = round(float((1 / np.median((boxes[:, 2:] - boxes[:, :2]).max(1)) - 1) / 2), 3)
    print("points", template.tolist())
    print("margin", margin)

    chips = [chip_of_landmarks(face, template, 1) for face in points]
    values = np.array([readings(c, p, b, 1) for c, p, b in zip(chips, points, boxes, strict=True)])
    rows = fitted(values, np.array([displacement(c) for c in chips])).round(4)
    print("correction", json.dumps(rows.tolist()))

    ways = {"box": [], "landmarks": [], "corrected": []}
    for face, box in zip(*tenth, strict=True):
        chip = chip_of_landmarks(face, template, 1)
        ways["box"].append(displacement(chip_of_box(box, margin, 1)))
        ways["landmarks"].append(displacement(chip))
        ways["corrected"].append(displacement(corrected(chip, readings(chip, face, box, 1), rows, 1)))
    for way, errors in ways.items():
        print(f"by {way}, x, y, log side, turn: median", np.median(np.abs(errors), 0).round(3).tolist(), end=", ")
        print("root of the mean square", np.sqrt(np.mean(np.square(errors), 0)).round(3).tolist())


if __name__ == "__main__":
    main()
