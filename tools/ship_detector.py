#!/usr/bin/env python3
"""Put a trained detector into the package: threshold, figures, provenance, ONNX, index.

    tools/ship_detector.py NAME RUN/best.safetensors --chosen wider.json [--size 1024] [--recipe NAME]

NAME is the zoo's name (``default``, ``fast``, ``accurate``). ``--size`` is the long side that it sees where the caller
names none, in place of the recipe's; ``--recipe`` the name of the shipped recipe, where the run's own was another.
Weights are stored in 8 bits (nnface.models.narrow).

``--chosen`` (which may be repeated) is a COCO file of boxes by people whose fixed tenth was kept for choosing: the
recommended score is the lowest at which 39 of 40 boxes there are faces (nnface.metrics.operating_point), at the model's
own size. Hold-out figures are taken from results/widerface-holdout.json, where it has them; measure with
benchmarks/peers.py after the first call, then call again. The card (zoo/weights/NAME.md) is written by hand, its tables
by benchmarks/tables.py.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import onnx

from nnface import Detector
from nnface.datasets.interchange import coco
from nnface.datasets.samples import split
from nnface.evaluation import faces as own
from nnface.export.onnx import export
from nnface.files import atomic_path
from nnface.metrics import wider
from nnface.metrics.operating_point import operating_point
from nnface.models import file as model_file
from nnface.models.narrow import narrowed
from nnface.runtime.torch import TorchRunner
from nnface.training import recipe
from nnface.zoo import index
from nnface.zoo.registry import WEIGHTS

RESULTS = Path(__file__).resolve().parents[1] / "results" / "widerface-holdout.json"
COMMAND = "python benchmarks/peers.py --list holdout.txt --model {}:{}"


def found_in(detector, samples):
    """Boxes and scores, by the picture's path: pictures of several files may have one name."""
    found = detector.batch([s.path for s in samples])
    return {str(s.path): (faces.boxes, faces.scores) for s, faces in zip(samples, found, strict=True)}


def main():
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("model", type=Path)
    parser.add_argument("--chosen", type=Path, required=True, action="append")
    parser.add_argument("--size", type=int)
    parser.add_argument("--recipe")
    options = parser.parse_args()
    module, spec = model_file.load(options.model)
    plan = recipe.load(options.recipe or spec.provenance["recipe"])
    assert spec.detection is not None
    if options.size is not None:
        spec = replace(spec, input=replace(spec.input, size=options.size))
    samples = [sample for path in options.chosen for sample in split(coco.read(path))[1]]
    truth = own.truth(samples)
    point = operating_point(found_in(Detector(TorchRunner(module, spec), min_score=0.05), samples), truth)
    if point is None:
        raise SystemExit("no score is precise enough, or there are too few faces")
    rates = f"precision {point.precision:.3f}, recall {point.recall:.3f}"
    print(f"score {point.score:.2f}: {rates} on {len(samples)} pictures")
    figures = {f"widerface/tenth/{name}": value for name, value in spec.figures.items() if "@" in name}
    if RESULTS.is_file():
        for row in json.loads(RESULTS.read_text("utf-8"))["rows"]:
            if row["detector"] == f"nnface {options.name}":
                for setting in ("easy", "medium", "hard"):
                    figures[f"widerface/holdout/{row['protocol']}/{setting}"] = round(row[setting] / 100, 4)
    ours = {"recipe": plan.name, **plan.provenance}  # what the file says besides stays: what it started from, averages
    spec = replace(
        spec,
        detection=replace(spec.detection, min_score=point.score),
        figures=figures,
        licence=plan.licence,
        provenance={**spec.provenance, **ours, "command": COMMAND.format(options.name, spec.input.size)},
    )
    WEIGHTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready.safetensors"
        model_file.save(ready, module, spec)
        export(ready, Path(folder) / "whole.onnx")
        with atomic_path(WEIGHTS / f"{options.name}.onnx") as temporary:
            onnx.save(narrowed(onnx.load(Path(folder) / "whole.onnx"), 8), temporary)
        for path in (Path(folder) / "whole.onnx", WEIGHTS / f"{options.name}.onnx"):
            curves = wider.score(found_in(Detector(path, min_score=0.02), samples), truth)  # stored as good as whole?
            print(f"{path.name}: " + "  ".join(f"{k} {100 * c.average_precision:.2f}" for k, c in curves.items()))
    index.write()


if __name__ == "__main__":
    main()
