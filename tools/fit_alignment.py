#!/usr/bin/env python3
"""Where the five landmarks, and the box, lie in a data set's pictures of one face: run a detector, take medians.

    tools/fit_alignment.py fairface:DIR|celebamask:DIR [--detector default] [--chips 400]

The detector sees each picture of ``train`` and its mirror image on a black margin (a face that fills a picture is hard
to find), so that what is a habit of the detector, and not of the pictures, cancels out. The results are
FAIRFACE_ALIGNMENT in models/classifier.py and CELEBAMASK_ALIGNMENT in models/parser.py.

Last comes how far a chip cut by the landmarks, by the box, or between the two lies from the picture: the root of
the mean square of the shifts of its middle, in sides, and of the logarithm of its side (AlignmentSpec.box_share).
"""

import argparse

import cv2
import numpy as np

from nnface import Detector, read_image
from nnface.datasets import celebamask, fairface
from nnface.geometry.align import between, chip_of_box, chip_of_landmarks

MIRRORED = (1, 0, 2, 4, 3)
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def misplaced(points, boxes, template, margin):
    """For each share of the box (x, y, log side): the roots of the mean squares of how far chips lie from [0, 1]."""
    result = {}
    for share in SHARES:
        errors = []
        for face, box in zip(points, boxes, strict=True):
            aligned, boxed = chip_of_landmarks(face, template, 1), chip_of_box(box, margin, 1)
            inverse = cv2.invertAffineTransform(between(aligned, boxed, share, 1))
            x, y = inverse @ (0.5, 0.5, 1)
            errors.append((x - 0.5, y - 0.5, np.log(np.hypot(*inverse[:, 0]))))
        result[share] = np.sqrt(np.mean(np.square(errors), 0))
    return result


def main():
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="NAME:DIR")
    parser.add_argument("--detector", default="default")
    parser.add_argument("--chips", type=int, default=400)
    options = parser.parse_args()
    name, _, place = options.data.partition(":")
    samples = {"fairface": fairface.read, "celebamask": celebamask.read}[name](place)
    chosen = np.random.default_rng(0).choice(len(samples), min(options.chips, len(samples)), replace=False)
    detector = Detector(options.detector, size=320)
    points, boxes = [], []
    for number in chosen:
        image = read_image(samples[number].path)
        side = image.shape[0]
        pad = side // 2
        for mirrored in (False, True):
            shown = image[:, ::-1] if mirrored else image
            faces = detector(cv2.copyMakeBorder(shown, pad, pad, pad, pad, cv2.BORDER_CONSTANT))
            if len(faces) == 0:
                continue
            centres = (faces.boxes[:, :2] + faces.boxes[:, 2:]) / 2
            nearest = int(np.abs(centres - (pad + side / 2)).sum(1).argmin())
            found = (faces.landmarks[nearest] - pad) / side
            points.append(np.array([1, 0]) - found[list(MIRRORED)] * [1, -1] if mirrored else found)
            boxes.append((faces.boxes[nearest] - pad) / side)
    template = np.median(points, 0)
    template = (template + np.array([1, 0]) - template[list(MIRRORED)] * [1, -1]) / 2  # symmetric, as faces are
    widths, heights = np.array(boxes)[:, 2:].T - np.array(boxes)[:, :2].T
    print(f"{len(points)} faces in {2 * len(chosen)} chips")
    print("points", template.round(3).tolist())
    margin = float((1 / np.median(np.maximum(widths, heights)) - 1) / 2)
    print("margin", round(margin, 3))
    for share, errors in misplaced(points, boxes, template, margin).items():
        print(f"box_share {share}: misplaced by x {errors[0]:.3f}, y {errors[1]:.3f}, log side {errors[2]:.3f}")


if __name__ == "__main__":
    main()
