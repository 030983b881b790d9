"""CPU time of a whole process ``nnface detect PHOTO``, and of ``nnface --version``: the median of several.

python benchmarks/startup.py photo.jpg [--runs 9]
"""

import argparse
import resource
import statistics
import subprocess
import sys


def cpu_seconds(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photo")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--model", default="default")
    options = parser.parse_args()
    nnface = [sys.executable, "-m", "nnface"]
    for name, command in {
        "nnface --version": [*nnface, "--version"],
        "nnface detect PHOTO": [*nnface, "detect", options.photo, "--model", options.model],
    }.items():
        times = [cpu_seconds(command) for _ in range(options.runs)]
        print(f"{name}: {statistics.median(times):.3f} s of CPU time (from {min(times):.3f} to {max(times):.3f})")


if __name__ == "__main__":
    main()
