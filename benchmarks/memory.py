"""Resident memory of ``nnface detect FOLDER`` after 500 and after 5,000 pictures of mixed sizes.

python benchmarks/memory.py [--model default] [--count 5000] [--early 500]

The pictures are links to 200 generated files of random sizes, JPEG and PNG. The process is watched from outside: after
each line of JSON its VmRSS is read.
"""

import argparse
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np


def generate(folder: Path, count: int, distinct: int = 200) -> None:
    random.seed(0)
    (folder / "files").mkdir()
    (folder / "photos").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    files = []
    for number in range(distinct):
        width, height = (int(64 * 2 ** random.uniform(0, 5.5)) for _ in range(2))  # 64 to 2896
        files.append(folder / "files" / f"{number}{'.png' if number % 10 == 0 else '.jpg'}")
        cv2.imwrite(str(files[-1]), cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC))
    for number in range(count):
        file = random.choice(files)
        (folder / "photos" / f"{number:06}{file.suffix}").symlink_to(file)


def resident(pid: int) -> float:
    """MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--early", type=int, default=500)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder), options.count)
        command = [
            sys.executable,
            "-m",
            "nnface",
            "detect",
            f"{folder}/photos",
            "--json",
            "-",
            "--model",
            options.model,
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            first = last = 0.0
            for number, _ in enumerate(process.stdout, 1):
                if number % 100 and number != options.count:
                    continue
                last = resident(process.pid)
                if number == options.early:
                    first = last
                if number in (100, options.early) or number % 1000 == 0:
                    print(f"{number:6} pictures: {last:.0f} MB", flush=True)
    print(f"after {options.count} pictures {last / first:.3f} times what it was after {options.early}")


if __name__ == "__main__":
    main()
