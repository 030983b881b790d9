"""The rate of ``nnface data verify`` beside that at which OpenCV decodes the same files on the same cores.

python benchmarks/verify.py widerface|fairface DIR [--rounds 3]

Each round measures, one after the other and each with one thread a core: cv2.imread at 1/8 scale and at full size, of
every picture that the labels name and that is there; verify that has seen nothing before, labels, hashes and duplicates
included; and verify once more, with its cache. The best round of each counts. On a busy machine the CPU times say more
than the rates.
"""

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2

from nnface.curate import fairface, widerface
from nnface.image import IMAGE_SUFFIXES
from nnface.processors import cores


def measured(work: Callable[[], Any]) -> tuple[float, float]:
    """Wall and CPU seconds."""
    before, begin = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    work()
    wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_SELF)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def decode(paths: list[str], flag: int, threads: int) -> None:
    with ThreadPoolExecutor(threads) as pool:
        for image in pool.map(lambda path: cv2.imread(path, flag) is None, paths):
            assert not image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=("widerface", "fairface"))
    parser.add_argument("root", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    folders = {"widerface": ("WIDER_*/images",), "fairface": ("train", "val")}[options.dataset]
    paths = [
        str(path)
        for pattern in folders
        for folder in sorted(options.root.glob(pattern))
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in IMAGE_SUFFIXES
    ]
    verify = {"widerface": widerface.verify, "fairface": fairface.verify}[options.dataset]
    threads = cores()
    cv2.setNumThreads(1)
    works: dict[str, Callable[[], Any]] = {
        "cv2.imread at 1/8": lambda: decode(paths, cv2.IMREAD_REDUCED_COLOR_8, threads),
        "cv2.imread, full": lambda: decode(paths, cv2.IMREAD_COLOR, threads),
        "verify": lambda: verify(options.root, again=True),
        "verify, second time": lambda: verify(options.root),
    }
    best = dict.fromkeys(works, (float("inf"), float("inf")))
    with tempfile.TemporaryDirectory() as home:
        os.environ["NNFACE_HOME"] = home
        for _ in range(options.rounds):
            for name, work in works.items():
                wall, cpu = measured(work)
                best[name] = min(best[name][0], wall), min(best[name][1], cpu)
    reference = best["cv2.imread at 1/8"]
    megabytes = sum(Path(path).stat().st_size for path in paths) / 1e6
    print(
        f"{options.dataset}: {len(paths):,} pictures, {megabytes:,.0f} MB, {threads} threads, OpenCV {cv2.__version__}"
    )
    print(f"{'':22}{'pictures/s':>12}{'of 1/8':>9}{'CPU ms/picture':>17}{'of 1/8':>9}")
    for name, (wall, cpu) in best.items():
        rate, each = len(paths) / wall, 1000 * cpu / len(paths)
        print(f"{name:22}{rate:12,.0f}{reference[0] / wall:9.0%}{each:17.3f}{reference[1] / cpu:9.0%}")


if __name__ == "__main__":
    main()
