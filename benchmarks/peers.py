"""Other projects' detectors beside ours on a list of WIDER FACE pictures: average precision and ms a picture, one run.

    python benchmarks/peers.py --data DIR --truth DIR --list holdout.txt --out results/widerface-holdout.json \
        --peer yunet_n:640 --peer scrfd_2.5g:640 --model default:640 --model fast:320

The peers' code and files are not part of nnface: ``--peers`` names the folder with ``peers.py`` (default
``../shared/peers``). Every detector sees the same decoded arrays, keeps scores from 0.02 on, and runs on the same
number of threads, so that the times of one run compare with each other (and with nothing else); ``cpu_ms`` is the
processor's time, which other programs disturb less. Rows of detectors that the output file has already and that are not
measured again are kept, with their own date.
"""

import argparse
import importlib.util
import json
import platform
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from nnface.datasets.widerface_predictions import rounded
from nnface.datasets.widerface_truth import choose, read_list, read_truth
from nnface.errors import NnfaceError
from nnface.evaluation import widerface
from nnface.evaluation.protocol import Measured, parse_protocol
from nnface.files import write_atomic
from nnface.image import Pixels, read
from nnface.metrics.wider import Prediction

ROOT = Path(__file__).resolve().parents[1]
Detect = Callable[[Pixels], Prediction]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds WIDER_val/images")
    parser.add_argument("--truth", type=Path, required=True, help="folder of the four .mat files")
    parser.add_argument("--list", type=Path, required=True, help="the pictures, event/name a line")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--peers", type=Path, default=ROOT / "../shared/peers")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME:SIZE")
    parser.add_argument("--model", action="append", default=[], metavar="MODEL:PROTOCOL", help="ours")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    cv2.setNumThreads(options.threads)
    truth = choose(read_truth(options.truth), read_list(options.list), options.list)
    pictures = widerface.find_pictures(options.data, list(truth.boxes))
    rows = {}
    if options.out.is_file():
        rows = {(row["detector"], row["protocol"]): row for row in json.loads(options.out.read_text())["rows"]}
    for detector, protocol, detect in [*_peers(options), *_ours(options)]:
        predictions, wall, cpu = _run(detect, pictures)
        result = widerface.score(predictions, truth)
        row = {
            "detector": detector,
            "protocol": protocol,
            **{name: round(100 * value, 2) for name, value in result.figures.items()},
            "intervals": {n: [round(100 * bound, 1) for bound in bounds] for n, bounds in result.intervals.items()},
            "heights": {
                widerface.range_name(bounds): round(100 * curve.average_precision, 1)
                for bounds, curve in result.heights.items()
            },
            "ms": round(wall, 1),
            "cpu_ms": round(cpu, 1),
            "threads": options.threads,
            "date": datetime.now(UTC).date().isoformat(),
        }
        rows[detector, protocol] = row
        print(detector, protocol, *(row[key] for key in ("easy", "medium", "hard", "cpu_ms")), sep="  ", flush=True)
    report = {
        "what": f"average precision on {len(pictures)} pictures of WIDER FACE val ({options.list.name})",
        "command": _command(options),
        "pictures": len(pictures),
        "machine": f"{platform.machine()}, {options.threads} thread(s)",
        "rows": list(rows.values()),
    }
    write_atomic(options.out, json.dumps(report, indent=1) + "\n")


def _command(options: argparse.Namespace) -> str:
    chosen = [f"--peer {name}" for name in options.peer] + [f"--model {name}" for name in options.model]
    fixed = f"--data DATA --truth TRUTH --list {options.list.name} --threads {options.threads}"
    return " ".join(["python benchmarks/peers.py", fixed, *chosen])


def load(folder: Path) -> Any:
    """The peers' code: the module ``peers.py`` of a folder."""
    path = folder / "peers.py"
    plan = importlib.util.spec_from_file_location("peers", path)
    if not path.is_file() or plan is None or plan.loader is None:
        raise NnfaceError(f"{path} is not there; --peers names the folder that holds it")
    module: Any = importlib.util.module_from_spec(plan)
    plan.loader.exec_module(module)
    return module


def _peers(options: argparse.Namespace) -> Sequence[tuple[str, str, Detect]]:
    if not options.peer:
        return []
    module = load(options.peers)
    module.THREADS = options.threads
    found = []
    for text in options.peer:
        name, _, size = text.partition(":")
        detect = module.create(name, int(size or 640))
        found.append((name, _protocol(name, int(size or 640)), lambda image, detect=detect: detect(image)[:2]))
    return found


def _protocol(peer: str, size: int) -> str:
    return f"squashed to {size}x{size * 3 // 4}" if peer.startswith("ultralight") else f"long side {size}"


def _ours(options: argparse.Namespace) -> Sequence[tuple[str, str, Detect]]:
    found = []
    for text in options.model:
        name, _, protocol = text.rpartition(":")
        measured = Measured(name, parse_protocol(protocol), threads=options.threads)
        # A file, not a name of the zoo: another project's checkpoint that nnface imported, or a candidate.
        shown = f"{Path(name).name} in nnface" if Path(name).suffix else f"nnface {name}"
        found.append((shown, measured.name, lambda image, measured=measured: measured([image])[0]))
    return found


def _run(detect: Detect, pictures: dict[str, Path]) -> tuple[dict[str, Prediction], float, float]:
    predictions, wall, cpu = {}, [], []
    for key, path in pictures.items():
        image = read(path)
        start = time.perf_counter(), time.process_time()
        boxes, scores = detect(image)
        wall.append(time.perf_counter() - start[0])
        cpu.append(time.process_time() - start[1])
        order = np.argsort(-np.asarray(scores), kind="stable")
        predictions[key] = rounded(np.asarray(boxes).reshape(-1, 4)[order], np.asarray(scores)[order])
    return predictions, 1000 * float(np.median(wall)), 1000 * float(np.median(cpu))


if __name__ == "__main__":
    main()
