#!/usr/bin/env python3
"""Put a trained classifier into the package: temperatures, confidences, figures, provenance, ONNX, index.

    tools/ship_classifier.py RUN/best.safetensors --data FAIRFACE_DIR [--name attributes] [--views N]

``--data`` is the folder that it was trained on: all is fitted on the tenth of its train part that was kept for
choosing. The temperature of each head makes its confidences honest; below the least confidence an answer is marked as
not certain: the lowest at which the certain answers are right in the share WANTED. Weights are stored in 16 bits.
Hold-out figures are taken from results/fairface-holdout.json, if they are there: measure with benchmarks/attributes.py
after the first call, then call again. The card (zoo/weights/NAME.md) is written by hand.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import onnx

from nnface.datasets import fairface
from nnface.datasets.samples import split
from nnface.evaluation import fairface as benchmark
from nnface.export.onnx import export
from nnface.files import atomic_path
from nnface.metrics import fairness
from nnface.models import file as model_file
from nnface.models.narrow import narrowed
from nnface.predict.classifier import Classifier, softmax
from nnface.runtime.torch import TorchRunner
from nnface.training import recipe
from nnface.zoo import index
from nnface.zoo.registry import WEIGHTS

WANTED = {"race": 0.75, "gender": 0.95, "age": 0.6}
MOST_BYTES = 6_000_000
RESULTS = Path(__file__).resolve().parents[1] / "results" / "fairface-holdout.json"
COMMAND = "python benchmarks/attributes.py --data fairface-dev"


def fitted(spec, module, samples, views):
    """The Spec with temperatures and least confidences fitted on the samples."""
    plain = replace(spec.classification, temperatures={}, min_confidence={}, views=views)
    classifier = Classifier(TorchRunner(module, replace(spec, classification=plain)))
    labels, logits, _ = benchmark.gather(classifier.meaning, list(benchmark.run(classifier, samples)))
    temperatures, confidences = {}, {}
    for head in classifier.heads:
        temperature = round(fairness.fit_temperature(logits[head], labels[head]), 4)
        probabilities = softmax(logits[head] / temperature)
        right = probabilities.argmax(1) == labels[head]
        least = round(fairness.fit_confidence(probabilities.max(1), right, WANTED[head]), 3)
        before, after = (fairness.calibration(p.max(1), right)[0] for p in (softmax(logits[head]), probabilities))
        held, certain = fairness.selective(probabilities.max(1), right, least)
        print(
            f"{head}: accuracy {right.mean():.4f}, temperature {temperature}, ECE {before:.4f} to {after:.4f}; from "
            f"confidence {least} on {certain.value:.4f}, held back {held:.4f}"
        )
        temperatures[head], confidences[head] = temperature, least
    meaning = replace(plain, temperatures=temperatures, min_confidence=confidences)
    return replace(spec, classification=meaning)


def main():
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--name", default="attributes")
    parser.add_argument("--recipe", default="attributes-default")
    parser.add_argument("--views", type=int, choices=(1, 2, 4), default=1, help="of each chip, see the Spec")
    options = parser.parse_args()
    module, spec = model_file.load(options.model)
    plan = recipe.load(options.recipe)
    samples = split(fairface.read(options.data))[1]
    spec = fitted(spec, module, samples, options.views)
    figures = {f"fairface/tenth/{name}": value for name, value in spec.figures.items() if "/" not in name}
    if RESULTS.is_file():
        for row in json.loads(RESULTS.read_text("utf-8"))["rows"]:
            if row["model"] == options.name:
                figures |= {f"fairface/holdout/{name}": value for name, value in row["figures"].items()}
    ours = {"recipe": plan.name, **plan.provenance}  # what the file says besides stays: what it started from, averages
    provenance = {**spec.provenance, **ours, "command": COMMAND}
    spec = replace(spec, figures=figures, licence=plan.licence, provenance=provenance)
    WEIGHTS.mkdir(exist_ok=True)
    place = WEIGHTS / f"{options.name}.onnx"
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready.safetensors"
        model_file.save(ready, module, spec)
        export(ready, Path(folder) / "whole.onnx")
        with atomic_path(place) as temporary:  # half the bytes
            onnx.save(narrowed(onnx.load(Path(folder) / "whole.onnx"), 16), temporary)
    print(f"{place}: {place.stat().st_size:,} bytes on {len(samples)} chips kept for choosing")
    if place.stat().st_size >= MOST_BYTES:
        raise SystemExit(f"{place} is larger than {MOST_BYTES:,} bytes")
    index.write()


if __name__ == "__main__":
    main()
