#!/usr/bin/env python3
"""Measure parsers: one on labelled portraits and in speed beside the reference's, dense against depthwise convolutions.

    python benchmarks/segmentation.py [--model parser] [--threads 2] [--batch 8] [--train-size 256]
        [--data celebamask-dev --part holdout --out results/celebamask-holdout.json]

With --data the figures of ``nnface evaluate celebamask`` come first, and --out gets them with the speeds.

First table: faces a second of --model (a name of the zoo, or an ONNX file) and of BiSeNet with ResNet-18 at 512, the
network of zllrunning/face-parsing.PyTorch (with random weights, on which its speed does not depend), in turns, the
networks alone; and of --model the whole way from a portrait of 512 x 512 to its label image. Second table: BiSeNet with
MobileNet's separable convolutions and with dense ones in their places, with the same channels and with as many
multiplications; milliseconds a picture of a training step (forward and backward, bfloat16, channels-last) and of ONNX
Runtime. Each figure is the best of some rounds.
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from nnface import Segmenter, read_image
from nnface.datasets import celebamask
from nnface.evaluation import celebamask as benchmark
from nnface.export.onnx import export
from nnface.files import write_atomic
from nnface.models import file
from nnface.models.create import create, default_spec
from nnface.predict.chips import resized
from nnface.runtime import open_model
from nnface.spec import CELEBAMASK_LABELS

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "grace_hopper.jpg"
KINDS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "depthwise": ("bisenet-mobile", {}),
    "dense, as many multiplications": ("bisenet-mobile", {"separable": False, "width": 3 / 16, "neck": 20}),
    "dense, as many channels": ("bisenet-mobile", {"separable": False}),
    "parser (dense)": ("parser", {}),
}


def exported(folder: Path, architecture: str, settings: Mapping[str, Any], size: int | None = None) -> Path:
    """An ONNX file of the network with random weights, by default at its own input size."""
    torch.manual_seed(0)
    spec = default_spec(architecture, licence="random weights", **settings)
    if size is not None:
        spec = replace(spec, input=replace(spec.input, size=size, width=size, height=size))
    saved = folder / "network.safetensors"
    file.save(saved, create(architecture, settings), spec)
    out = folder / f"{len(list(folder.iterdir()))}.onnx"
    export(saved, out)
    return out


def measured(segmenter: Segmenter, data: Path, part: str) -> dict[str, Any]:
    """The figures on labelled portraits, in per cent, with their intervals; of each part its F1."""
    result = benchmark.evaluate(segmenter.labels, celebamask.read(data, part))
    names = [*benchmark.FIGURES, *(f"f1/{name}" for name in CELEBAMASK_LABELS[1:])]
    return {
        "model": segmenter.name,
        "portraits": len(result.keys),
        **{name: 100 * result.figures[name] for name in names},
        "intervals": {name: [100 * bound for bound in result.interval(name)] for name in names},
        "figures": {name: result.figures[name] for name in names},
    }


def best(tasks: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Seconds of each task, in turns, after one call that does not count."""
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(rounds + 1):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            if turn:
                times[name].append(time.perf_counter() - start)
    return {name: min(values) for name, values in times.items()}


def multiplications(architecture: str, settings: Mapping[str, Any], size: int) -> int:
    """Of one picture, once through the network."""
    with torch.device("meta"):
        network, image = create(architecture, settings).eval(), torch.zeros(1, 3, size, size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image)
    return counter.get_total_flops() // 2


def training_step(architecture: str, settings: Mapping[str, Any], size: int, batch: int) -> Callable[[], object]:
    """Forward and backward of all outputs of a batch of noise."""
    torch.manual_seed(0)
    network: nn.Module = create(architecture, settings).to(memory_format=torch.channels_last)
    images = torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 19, (batch, size, size))

    def step() -> None:
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            outputs = network(images)
        losses = []
        for logits in outputs.values():
            grid = labels[:, :: size // logits.shape[2], :: size // logits.shape[3]]
            losses.append(F.cross_entropy(logits.float(), grid))
        torch.stack(losses).sum().backward()

    return step


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="parser")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--train-size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", type=Path, help="a prepared CelebAMask-HQ")
    parser.add_argument("--part", default="holdout")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    if options.data:
        rows.append(measured(Segmenter(options.model, threads=options.threads), options.data, options.part))
        print({name: round(value, 1) for name, value in rows[0].items() if isinstance(value, float)})
    portrait = cv2.resize(read_image(EXAMPLE), (512, 512), interpolation=cv2.INTER_AREA)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours = Segmenter(options.model, threads=options.threads)
        reference = Segmenter(exported(folder, "bisenet-resnet18", {}), threads=options.threads)
        names = {Path(options.model).name: ours, "BiSeNet-ResNet-18": reference}
        batches = {k: s.prepare([resized(portrait, s.size)] * options.batch) for k, s in names.items()}
        times = best({k: partial(s.mean_logits, batches[k]) for k, s in names.items()}, options.rounds)
        whole = best({"whole": partial(ours.labels, portrait)}, options.rounds)["whole"]
        print(f"faces a second at batch {options.batch}, {options.threads} threads, {platform.machine()}")
        for k, s in names.items():
            print(f"{k:32} at {s.size} {options.batch / times[k]:7.1f}")
        print(f"{'portrait to label image at 512':32}        {1 / whole:7.1f}")
        speed = [
            {"model": k, "input": s.size, "faces_per_second": options.batch / times[k], "threads": options.threads}
            for k, s in names.items()
        ]
        speed[0]["whole_per_second"] = 1 / whole
        if options.out:
            write_atomic(options.out, json.dumps({"rows": rows, "speed": speed}, indent=1) + "\n")

        size, batch = options.train_size, options.batch
        print(f"\nat {size}: parameters, million multiplications; ms a picture of a training step, of ONNX Runtime")
        runners = {k: open_model(exported(folder, *kind, size), threads=options.threads) for k, kind in KINDS.items()}
        images = np.random.default_rng(0).standard_normal((batch, 3, size, size)).astype(np.float32)
        inferring = best({k: partial(runner.run, images) for k, runner in runners.items()}, options.rounds)
        training = best({k: training_step(*kind, size, batch) for k, kind in KINDS.items()}, options.rounds)
        for k, kind in KINDS.items():
            parameters = sum(p.numel() for p in create(*kind).parameters())
            print(
                f"{k:32} {parameters:9,} {multiplications(*kind, size) / 1e6:7.0f} "
                f"{training[k] / batch * 1e3:7.1f} {inferring[k] / batch * 1e3:7.1f}"
            )


if __name__ == "__main__":
    main()
