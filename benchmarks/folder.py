"""A folder of photographs from files to JSON Lines, beside OpenCV's decoding and the network alone on the same cores.

python benchmarks/folder.py PHOTOS [--model fast] [--count 500] [--rounds 3]

The yardstick is the sum of two things measured alone, each with as many threads as nnface has and one core a thread:
cv2.imread at the scale that the network needs, and the session's run on inputs that are prepared. What nnface does
beside them (start, resize, normalise, select, JSON) is what the ratio shows; that of CPU times holds on a busy machine
too. The split is the mean time of each step of one thread alone.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2

from nnface.image import IMAGE_SUFFIXES, read_reduced, read_sized
from nnface.predict.detector import Detector
from nnface.processors import physical_cores
from nnface.results import Faces

REDUCED = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}


def measured(work: Callable[[], Any], who: int = resource.RUSAGE_SELF) -> tuple[float, float]:
    """Wall and CPU seconds."""
    before, begin = resource.getrusage(who), time.perf_counter()
    work()
    wall, after = time.perf_counter() - begin, resource.getrusage(who)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def in_threads(function: Callable[[Any], Any], items: list[Any], threads: int) -> None:
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(function, items):
            pass


def flag(path: Path, side: int) -> int:
    """The reading mode of cv2.imread that decodes a JPEG at the smallest scale with ``side`` pixels."""
    long_side = max(read_sized(path))
    factors = [factor for factor in REDUCED if path.suffix.lower() in (".jpg", ".jpeg") and long_side // factor >= side]
    return REDUCED[max(factors)] if factors else cv2.IMREAD_COLOR


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="a folder of photographs")
    parser.add_argument("--model", default="fast")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument(
        "--rounds", type=int, default=3, help="each thing is measured so often, in turn; the best counts"
    )
    options = parser.parse_args()
    photos = sorted(p.absolute() for p in options.photos.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    photos = photos[: options.count]
    threads = physical_cores()
    cv2.setNumThreads(1)

    detector = Detector(options.model, threads=1)
    side = detector.size or 0
    flags = {photo: flag(photo, side) for photo in photos}
    prepared = [detector.prepare(photo) for photo in photos]
    best: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for photo in photos:
            name = "-".join(photo.relative_to(options.photos.absolute()).parts)
            (Path(folder) / name).symlink_to(photo)
        out = Path(folder) / "out.jsonl"
        command = [sys.executable, "-m", "nnface", "detect", folder, "--model", options.model, "--json", str(out)]
        for _ in range(options.rounds):
            parts = {
                "decode": measured(lambda: in_threads(lambda p: cv2.imread(str(p), flags[p]), photos, threads)),
                "network": measured(lambda: in_threads(lambda i: detector.runner.run(i.input), prepared, threads)),
                "nnface": measured(lambda: subprocess.run(command, check=True), resource.RUSAGE_CHILDREN),
            }
            for name, (wall, cpu) in parts.items():
                best[name] = min(wall, best.get(name, wall))
                best[f"{name} cpu"] = min(cpu, best.get(f"{name} cpu", cpu))
            assert len(out.read_text().splitlines()) == len(photos)

    split = dict.fromkeys(("read", "prepare", "network", "select"), 0.0)
    for photo in photos:
        times = [time.perf_counter()]
        picture = read_reduced(photo, side)
        times.append(time.perf_counter())
        item = detector.prepare(picture)
        times.append(time.perf_counter())
        outputs = detector.runner.run(item.input)
        times.append(time.perf_counter())
        faces: Faces = detector.select({name: values[0] for name, values in outputs.items()}, item)
        faces.to_json()
        times.append(time.perf_counter())
        for name, begin, end in zip(split, times[:-1], times[1:], strict=True):
            split[name] += end - begin

    print(f"{len(photos)} photographs, {options.model} at {side}, {threads} threads, load {os.getloadavg()[0]:.1f}")
    for name, value in split.items():
        print(f"  {name:8} {1000 * value / len(photos):6.2f} ms a photograph, one thread")
    for kind, title in {"": "wall time", " cpu": "CPU time"}.items():
        decode, network, ours = (best[name + kind] for name in ("decode", "network", "nnface"))
        print(
            f"{title}: OpenCV's decoding {decode:.2f} s + network {network:.2f} s = {decode + network:.2f} s; "
            f"nnface detect, whole process {ours:.2f} s; ratio {ours / (decode + network):.3f}"
        )


if __name__ == "__main__":
    main()
