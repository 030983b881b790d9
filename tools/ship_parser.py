#!/usr/bin/env python3
"""Put a trained parser into the package: biases of the labels, figures, provenance, ONNX, index.

    tools/ship_parser.py RUN/best.safetensors --data celebamask:DIR [--data ...] [--name parser] [--recipe NAME]
        [--views 2]

``--data`` is what it was trained on: all is fitted on the tenth that was kept for choosing. A training that counts rare
parts more finds too much of them, and F1 asks for another balance than the number of right pixels; so each label gets
the bias at which F1, weighed between all parts and the frequent ones as the recipe weighs checkpoints, is highest
(coordinate ascent), written into the last convolution. It is fitted on one half of the tenth and judged on the other
first, so that the gain that is printed is not its own choice.
Hold-out figures are taken from results/celebamask-holdout.json, if they are there: measure after the first call with
benchmarks/segmentation.py, then call again. The card (zoo/weights/NAME.md) is written by hand.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import torch

from nnface.datasets.celebamask import read_mask
from nnface.datasets.samples import split
from nnface.evaluation import celebamask as evaluation
from nnface.export.onnx import export
from nnface.files import atomic_path
from nnface.image import read
from nnface.metrics import parsing
from nnface.models import file as model_file
from nnface.models.create import default_spec
from nnface.models.narrow import narrowed
from nnface.predict.segmenter import Segmenter
from nnface.runtime.torch import TorchRunner
from nnface.spec import CELEBAMASK_LABELS, mirrored_labels
from nnface.training import recipe
from nnface.training.start import read_portraits
from nnface.zoo import index
from nnface.zoo.registry import WEIGHTS

MOST_BYTES = 8_000_000
RESULTS = Path(__file__).resolve().parents[1] / "results" / "celebamask-holdout.json"
COMMAND = "nnface evaluate celebamask --model parser --data celebamask-dev --part holdout"
STEPS = (1.0, 0.5, 0.25)


def gathered(module, spec, samples):
    """Logits (n, labels, h, w) at every second row and column of the network's own grid, and the true labels there."""
    segmenter, size = Segmenter(TorchRunner(module, spec)), spec.input.size
    logits, truth = [], []
    for sample in samples:
        image = cv2.resize(read(sample.path), (size, size), interpolation=cv2.INTER_AREA)
        found = segmenter.logits([image])[0].astype(np.float16)
        labels = cv2.resize(read_mask(sample.mask), found.shape[:0:-1], interpolation=cv2.INTER_NEAREST_EXACT)
        logits.append(found[:, ::2, ::2])
        truth.append(labels[::2, ::2])
    return np.stack(logits), np.stack(truth)


def weighed_f1(logits, truth, biases, share):
    """The mean over the 14 frequent parts, by its share, and that over all 18."""
    matrix = np.zeros((len(biases),) * 2, np.int64)
    for rows, labels in zip(logits, truth, strict=True):
        matrix += parsing.confusion(labels, (rows + biases[:, None, None]).argmax(0).astype(np.uint8), len(biases))
    scores = parsing.scores(matrix)
    return share * scores.frequent_f1 + (1 - share) * scores.mean_f1


def fitted(logits, truth, partners, share):
    """(labels,) float16: what is added to the logits; the background's stays 0, and partners have one value."""
    biases = np.zeros(logits.shape[1], np.float16)
    best = weighed_f1(logits, truth, biases, share)
    for step in STEPS:
        for label in (n for n in range(1, len(biases)) if n <= partners[n]):
            for move in (-step, step):
                while True:
                    tried = biases.copy()
                    tried[[*{label, partners[label]}]] += move
                    found = weighed_f1(logits, truth, tried, share)
                    if found <= best + 1e-5:
                        break
                    biases, best = tried, found
        print(f"step {step}: F1 {best:.4f}", flush=True)
    return biases


def main():
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", action="append", required=True, metavar="celebamask:DIR")
    parser.add_argument("--name", default="parser")
    parser.add_argument("--biases", type=json.loads, help="JSON that an earlier call printed; not fitted again")
    parser.add_argument("--views", type=int, choices=(1, 2), default=1, help="of each portrait, see the Spec")
    parser.add_argument("--recipe", help="where it is not the one that the file names")
    parser.add_argument("--most", type=int, default=400, help="portraits of the tenth that are used")
    options = parser.parse_args()
    module, spec = model_file.load(options.model)
    assert spec.segmentation is not None  # a parser's Spec always has it
    spec = replace(spec, segmentation=replace(spec.segmentation, views=options.views))
    plan = recipe.load(options.recipe or spec.provenance["recipe"])
    # A mirror image's logits come back with left and right exchanged, so that the two sides share what is added.
    alone = tuple(range(len(CELEBAMASK_LABELS)))
    partners = alone if options.views == 1 else mirrored_labels(CELEBAMASK_LABELS)
    everything = {s.key: s for samples in read_portraits(options.data).values() for s in samples}
    samples = sorted(split(list(everything.values()))[1], key=lambda s: s.key)[: options.most]
    if options.biases is None:
        logits, truth = gathered(module, spec, samples)
        plain = np.zeros(logits.shape[1], np.float16)
        share = plan.evaluation.frequent
        crossed = fitted(logits[0::2], truth[0::2], partners, share)
        before, after = (weighed_f1(logits[1::2], truth[1::2], b, share) for b in (plain, crossed))
        print(f"the other half: F1 {before:.4f} without biases, {after:.4f} with those of the first half")
        biases = fitted(logits, truth, partners, share) if after > before else plain
        print(json.dumps({name: float(b) for name, b in zip(CELEBAMASK_LABELS, biases, strict=True) if b}))
    else:
        biases = np.array([options.biases.get(name, 0.0) for name in CELEBAMASK_LABELS])
        if not np.array_equal(biases, biases[list(partners)]):
            raise SystemExit("with two views left and right parts have the same biases")
    with torch.no_grad():
        module.classify.bias += torch.from_numpy(biases.astype(np.float32))
    result = evaluation.evaluate(Segmenter(TorchRunner(module, spec)).labels, samples)
    figures = {f"celebamask/tenth/{name}": round(value, 4) for name, value in result.figures.items()}
    if RESULTS.is_file():
        for row in json.loads(RESULTS.read_text("utf-8"))["rows"]:
            if row["model"] == options.name:
                figures |= {f"celebamask/holdout/{name}": round(value, 4) for name, value in row["figures"].items()}
    ours = {"recipe": plan.name, **plan.provenance}  # what the file says besides stays: what it started from, averages
    spec = replace(
        spec,
        alignment=default_spec(spec.architecture, **spec.settings).alignment,
        figures=figures,
        licence=plan.licence,
        provenance={**spec.provenance, **ours, "command": COMMAND},
    )
    WEIGHTS.mkdir(exist_ok=True)
    place = WEIGHTS / f"{options.name}.onnx"
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready.safetensors"
        model_file.save(ready, module, spec)
        export(ready, Path(folder) / "whole.onnx")
        with atomic_path(place) as temporary:
            onnx.save(narrowed(onnx.load(Path(folder) / "whole.onnx"), 8), temporary)
        whole, small = (Segmenter(path, threads=1) for path in (Path(folder) / "whole.onnx", place))
        same = [np.mean(whole.labels(s.path) == small.labels(s.path)) for s in samples[:40]]
        print(f"weights in 8 bits: {np.mean(same):.5f} of the pixels of {len(same)} portraits have the same label")
    print(f"{place}: {place.stat().st_size:,} bytes on {len(samples)} portraits kept for choosing")
    if place.stat().st_size >= MOST_BYTES:
        raise SystemExit(f"{place} is larger than {MOST_BYTES:,} bytes")
    index.write()


if __name__ == "__main__":
    main()
