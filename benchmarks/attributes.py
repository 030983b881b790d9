#!/usr/bin/env python3
"""Measure classifiers on the hold-out of fairface-dev, and write results/fairface-holdout.json.

    python benchmarks/attributes.py --data fairface-dev [--model attributes]... [--detector default] [--limit N]
        [--tenth]

For each model: accuracies of race, gender and age with Wilson intervals; the same after the chip was placed into a
larger scene, found by the detector, aligned and cut out again, and the same by the detector's box alone, which is what
alignment is worth; the share of faces whose labels stay the same where the crop is shifted by 5 % to each side or
scaled by 5 %; faces a second at batch 32 on the threads given, and of the models named with --beside, in the same run
(the reference: `nnface import fairface`, then `nnface export`).

--tenth takes the tenth of `train` that is kept for choosing instead, and writes nothing.
"""

import argparse
import json
import platform
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from nnface import Classifier, Detector, read_image
from nnface.datasets import fairface
from nnface.datasets.samples import split
from nnface.evaluation import fairface as benchmark
from nnface.files import write_atomic
from nnface.metrics.fairness import Share, accuracy
from nnface.predict.chips import warp

RESULTS = Path(__file__).resolve().parents[1] / "results" / "fairface-holdout.json"
MOVES = {
    "left": (1, -0.05, 0),
    "right": (1, 0.05, 0),
    "up": (1, 0, -0.05),
    "down": (1, 0, 0.05),
    "larger": (1.05, 0, 0),
    "smaller": (1 / 1.05, 0, 0),
}


def scene(chip, other, rng):
    """The chip somewhere in a picture of 640 x 480, on an enlarged and blurred other chip; its middle and its side."""
    ground = cv2.GaussianBlur(cv2.resize(other, (640, 480)), (0, 0), 12)
    side = int(rng.integers(112, 301))
    small = cv2.resize(chip, (side, side), interpolation=cv2.INTER_AREA if side < chip.shape[0] else cv2.INTER_LINEAR)
    x, y = int(rng.integers(0, 640 - side)), int(rng.integers(0, 480 - side))
    ground[y : y + side, x : x + side] = small
    return ground, np.array([x + side / 2, y + side / 2]), side


def moved(chip, size, scale, dx, dy):
    """The chip with its content scaled about the middle and shifted by shares of the side."""
    side = chip.shape[0]
    factor = size / side * scale
    corner = size / 2 - factor * side / 2
    return warp(chip, np.array([[factor, 0, corner + dx * size], [0, factor, corner + dy * size]]), size)


def answers(classifier, chips):
    """For each head (n,) numbers of labels; -1 where there is no chip."""
    there = [i for i, chip in enumerate(chips) if chip is not None]
    result = {name: np.full(len(chips), -1) for name in classifier.heads}
    for name, rows in classifier.logits([chips[i] for i in there]).items():
        result[name][there] = rows.argmax(1)
    return result


def as_json(share: Share):
    """Value, interval and count."""
    return {"value": share.value, "interval": list(share.interval), "count": share.count}


def in_scenes(classifier, detector, images):
    """Answers for faces found in scenes, aligned by landmarks and cut by the box; and how many were not found."""
    rng = np.random.default_rng(0)
    aligned, boxed = [], []
    for number, image in enumerate(images):
        picture, middle, side = scene(image, images[(number * 7 + 1) % len(images)], rng)
        faces = detector(picture)
        distances = np.abs((faces.boxes[:, :2] + faces.boxes[:, 2:]) / 2 - middle).max(1, initial=0)
        if len(faces) == 0 or distances.min() > side / 4:  # nothing, or something else
            aligned.append(None)
            boxed.append(None)
            continue
        face = faces[[int(distances.argmin())]]
        aligned.append(classifier.chips(picture, face)[0])
        boxed.append(classifier.chips(picture, replace(face, landmarks=None))[0])
    return answers(classifier, aligned), answers(classifier, boxed), sum(chip is None for chip in aligned)


def measure(name, samples, images, detector, threads):
    """The row of one model."""
    classifier = Classifier(name, threads=threads)
    result = benchmark.score(classifier.meaning, list(benchmark.run(classifier, samples)))
    plain = answers(classifier, [classifier.whole_chip(image) for image in images])
    labels = {head: np.array([s.labels[head] for s in samples]) for head in classifier.heads}
    aligned, boxed, missed = in_scenes(classifier, detector, images)
    stable = {head: [] for head in classifier.heads}
    for scale, dx, dy in MOVES.values():
        found = answers(classifier, [moved(image, classifier.size, scale, dx, dy) for image in images])
        for head in stable:
            stable[head].append(float((found[head] == plain[head]).mean()))
    return {
        "model": name,
        "faces": len(samples),
        "figures": {k: v for k, v in result.figures.items() if v == v},
        "accuracy": {head: as_json(h.accuracy) for head, h in result.heads.items()},
        "in_scenes_aligned": {h: as_json(accuracy(labels[h], aligned[h])) for h in labels},
        "in_scenes_aligned_of_found": {
            h: as_json(accuracy(np.where(aligned[h] < 0, -1, labels[h]), aligned[h])) for h in labels
        },
        "whole_chip_of_found": {
            h: as_json(accuracy(np.where(aligned[h] < 0, -1, labels[h]), plain[h])) for h in labels
        },
        "in_scenes_by_box": {h: as_json(accuracy(labels[h], boxed[h])) for h in labels},
        "not_found": missed,
        "stable": {head: float(np.mean(values)) for head, values in stable.items()},
        "stable_worst_move": {head: min(values) for head, values in stable.items()},
    }


def speed(name, images, threads):
    """Faces a second of a model at batch 32, from chips to logits, all views: the best of some runs."""
    classifier = Classifier(name, threads=threads)
    batch = [classifier.whole_chip(image) for image in images[:32]]
    times = []
    while len(times) < 3 or (len(times) < 20 and sum(times) < 10):
        start = time.perf_counter()
        classifier.logits(batch)
        times.append(time.perf_counter() - start)
    return {"model": Path(name).name, "faces_per_second": len(batch) / min(times), "threads": threads}


def main():
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", action="append")
    parser.add_argument("--beside", action="append", default=[], help="a classifier that is only timed")
    parser.add_argument("--detector", default="default")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, help="only the first N faces, to try the script out; writes nothing")
    parser.add_argument("--tenth", action="store_true", help="the tenth kept for choosing; writes nothing")
    options = parser.parse_args()
    samples = split(fairface.read(options.data))[1] if options.tenth else fairface.read(options.data, "val")
    samples = samples[: options.limit]
    images = [read_image(s.path) for s in samples]
    detector = Detector(options.detector, threads=options.threads)
    names = options.model or ["attributes"]
    report = {
        "command": "python benchmarks/attributes.py --data fairface-dev",
        "machine": f"{platform.machine()}, {options.threads} threads",
        "rows": [measure(name, samples, images, detector, options.threads) for name in names],
        "speed": [speed(name, images, options.threads) for name in [*names, *options.beside]],
    }
    text = json.dumps(report, indent=1)
    print(text)
    if options.limit is None and not options.tenth:
        write_atomic(RESULTS, text + "\n")


if __name__ == "__main__":
    main()
