"""From a BGR array to boxes: Ultra-Light RFB 320x240 through nnface.Detector, and through another project's wrapper.

python benchmarks/latency.py MODEL PEERS PHOTO... [--threads 1] [--rounds 200]

MODEL is version-RFB-320.pth imported and exported by nnface; PEERS is the file peers.py with its ultralight_rfb_320.
Both use ONNX Runtime and score 0.02, in one process, in turn; medians are compared. The share of the network is that
of our session's run alone.
"""

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2

from nnface import Detector, read_image


def milliseconds(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("peers", type=Path)
    parser.add_argument("photos", nargs="+")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    described = importlib.util.spec_from_file_location("peers", options.peers)
    assert described is not None and described.loader is not None
    peers = importlib.util.module_from_spec(described)
    described.loader.exec_module(peers)
    peers.THREADS = options.threads
    cv2.setNumThreads(options.threads)
    peer = peers.create("ultralight_rfb_320", size=320, min_score=0.02)
    detector = Detector(options.model, threads=options.threads, min_score=0.02)
    for photo in options.photos:
        image = read_image(photo)
        item = detector.prepare(image)
        calls: dict[str, Callable[[], Any]] = {
            "nnface": lambda image=image: detector(image),
            "peer": lambda image=image: peer(image),
            "network": lambda item=item: detector.runner.run(item.input),
        }
        times: dict[str, list[float]] = {name: [] for name in calls}
        for number in range(options.rounds + 5):
            for name, call in calls.items():
                elapsed = milliseconds(call)
                if number >= 5:
                    times[name].append(elapsed)
        ours, theirs, network = (statistics.median(times[name]) for name in ("nnface", "peer", "network"))
        found, other = len(detector(image)), len(peer(image)[0])
        print(
            f"{Path(photo).name} {image.shape[1]} x {image.shape[0]}: nnface {ours:.2f} ms ({found} boxes; "
            f"network alone {network:.2f} ms), peer {theirs:.2f} ms ({other} boxes), ratio {ours / theirs:.3f}"
        )


if __name__ == "__main__":
    main()
