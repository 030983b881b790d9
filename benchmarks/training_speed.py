"""Training speed on this machine: pictures a second, forward and backward, plain and with what a CPU offers.

    python benchmarks/training_speed.py [--architecture retinaface-mobilenet025] [--threads 2] [--batch 8]

Four settings side by side, interleaved: float32 and bfloat16 autocast, in contiguous and in channels-last memory; the
ratios are to plain float32. Inputs are random, with three faces a picture and the recipe's own loss; nothing is loaded.
"""

import argparse
import statistics
import time

import torch
from torch import nn

from nnface.models.create import create, default_spec
from nnface.training.matching import Target
from nnface.training.objectives import objective
from nnface.training.recipe import DetectionLoss

SETTINGS = [(False, False), (False, True), (True, False), (True, True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="retinaface-mobilenet025")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--sizes", type=int, nargs="+", default=[320, 640])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for size in options.sizes:
        times = measure(options.architecture, size, options.batch, options.rounds)
        plain = times[(False, False)]
        for (bfloat16, channels_last), seconds in times.items():
            what = f"{'bfloat16' if bfloat16 else 'float32':8} {'channels-last' if channels_last else 'contiguous':13}"
            speed = options.batch / seconds
            print(f"{options.architecture} at {size}: {what} {speed:6.1f} pictures/s, {plain / seconds:.2f} x plain")


def measure(architecture: str, size: int, batch: int, rounds: int) -> dict[tuple[bool, bool], float]:
    """Median seconds of a batch for each setting."""
    networks = {setting: _network(architecture, setting[1]) for setting in SETTINGS}
    detection = default_spec(architecture).detection
    assert detection is not None
    kind = "anchorfree" if detection.coding == "distance" else "multibox"
    goal = objective(DetectionLoss(kind=kind), detection, size, size, torch.device("cpu"))
    boxes = torch.tensor([[0.1, 0.1, 0.3, 0.35], [0.5, 0.4, 0.6, 0.52], [0.7, 0.7, 0.95, 0.99]]) * size
    centre = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2
    target = Target(boxes=boxes, landmarks=centre.expand(3, 5, 2), ignore=torch.zeros(3, dtype=torch.bool))
    targets = [target] * batch
    times: dict[tuple[bool, bool], list[float]] = {setting: [] for setting in SETTINGS}
    for turn in range(rounds + 1):
        for setting, network in networks.items():
            images = torch.randn(batch, 3, size, size)
            if setting[1]:
                images = images.to(memory_format=torch.channels_last)
            start = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=setting[0]):
                outputs = network(images)
            sum(goal.losses(outputs, targets, goal.counts(targets)).values()).backward()  # type: ignore[union-attr]
            if turn:  # the first round warms up
                times[setting].append(time.perf_counter() - start)
    return {setting: statistics.median(values) for setting, values in times.items()}


def _network(architecture: str, channels_last: bool) -> nn.Module:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return create(architecture).to(memory_format=layout)  # type: ignore[no-any-return, call-overload]


if __name__ == "__main__":
    main()
