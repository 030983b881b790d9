#!/usr/bin/env python3
"""Put the scores of an anchor-free detector into one order: a slope over the size of the box.

    tools/fit_scores.py MODEL.safetensors --data coco:A.json [--data ...] --size 640 --out ordered.safetensors

The loss asks of each cell alone whether it is a face's, but average precision puts all boxes into one order, and there
are many more places for small boxes than for large ones: what is found by mistake among them stands before large faces
that are turned or half hidden. So ``slope * log2(size / 128)`` is added to a score's logit, where the size is the
geometric mean of the box's sides in pixels that the network sees. This is linear in what the last convolution of each
head gives, and is folded into its weights: the network has no more to do.

The slope is the one of SLOPES at which the mean of easy, medium and hard over the sources, as benchmarks/ladder.py has
it, is highest on the tenth of each that is kept for choosing. It is fitted on every second picture and judged on the
others first, so that the gain that is printed is not its own choice.
"""

import argparse
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from nnface import Detector
from nnface.datasets.samples import split
from nnface.evaluation.protocol import MIN_SCORE
from nnface.metrics import wider
from nnface.models import file as model_file
from nnface.runtime.torch import TorchRunner
from nnface.training.start import read_sources

SLOPES = np.arange(0, 0.45, 0.05)
CENTRE = 128
"""The size whose scores stay as they are."""


def outputs(detector, samples):
    """For each picture: how it was prepared, the network's outputs, and the stride of each cell."""
    rows = []
    for sample in samples:
        prepared = detector.prepare(sample.path)
        found = {name: values[0] for name, values in detector.runner.run(prepared.input).items()}
        height, width = prepared.input.shape[2:]
        strides = detector.spec.detection.strides
        rows.append((prepared, found, np.repeat(strides, [height // s * (width // s) for s in strides])))
    return rows


def average_precisions(detector, sources, slope):
    """(easy, medium, hard) in per cent, the mean over the sources."""
    figures = []
    for samples, rows in sources:
        found = {}
        for number, (prepared, plain, strides) in enumerate(rows):
            size = np.log2(plain["boxes"]).mean(1) + np.log2(2 * strides / CENTRE)  # from distances in strides
            factor, scores = np.exp(slope * size), plain["scores"]  # of the odds
            scores = (scores * factor / (1 + scores * (factor - 1))).astype(np.float32)
            faces = detector.select({**plain, "scores": scores}, prepared)
            found[str(number)] = (faces.boxes, faces.scores)
        boxes = {str(n): s.boxes for n, s in enumerate(samples)}
        truth = wider.by_height(boxes, {str(n): s.ignored for n, s in enumerate(samples)})
        figures.append([100 * curve.average_precision for curve in wider.score(found, truth).values()])
    return np.mean(figures, 0)


def fitted(detector, sources):
    """The best slope, and the figures without and with it."""
    rows = [average_precisions(detector, sources, slope) for slope in SLOPES]
    best = int(np.argmax([row.mean() for row in rows]))
    return SLOPES[best], rows[0], rows[best]


def fold(module, strides, slope):
    """Write the slope into the last convolution of each level's head."""
    with torch.no_grad():
        for head, stride in zip(module.heads, strides, strict=True):
            weight, offset = head.predict.weight, head.predict.bias
            share = slope / math.log(2)  # channels 1 to 4 are natural logarithms of the distances
            weight[0] += share * weight[1:5].mean(0)
            offset[0] += share * offset[1:5].mean() + slope * math.log2(2 * stride / CENTRE)


def told(figures):
    """Three figures and their mean."""
    return f"{' / '.join(f'{value:.2f}' for value in figures)} (mean {figures.mean():.2f})"


def main():
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", action="append", required=True, metavar="KIND:PATH")
    parser.add_argument("--size", type=int, required=True, help="the long side that pictures are seen at")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    module, spec = model_file.load(options.model)
    if spec.architecture != "anchorfree":
        raise SystemExit(f"{options.model} is no anchor-free detector")
    detector = Detector(TorchRunner(module, spec), size=options.size, min_score=MIN_SCORE)
    chosen = [split(samples)[1] for samples in read_sources(options.data).values()]
    whole = [(samples, outputs(detector, samples)) for samples in chosen]
    halves = [[(samples[n::2], rows[n::2]) for samples, rows in whole] for n in (0, 1)]
    slope, _, _ = fitted(detector, halves[0])
    before, after = (average_precisions(detector, halves[1], value) for value in (0, slope))
    print(f"the other half: {told(before)} before, {told(after)} with the first half's slope of {slope:.2f}")
    slope, before, after = fitted(detector, whole)
    print(f"all: {told(before)} before, {told(after)} with a slope of {slope:.2f}")
    fold(module, spec.detection.strides, slope)
    words = f"slope {slope:.2f} over log2 of the size, fitted at a long side of {options.size}"
    model_file.save(options.out, module, replace(spec, figures={}, provenance={**spec.provenance, "scores": words}))


if __name__ == "__main__":
    main()
