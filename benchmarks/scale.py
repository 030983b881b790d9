"""Many small pictures on two local Ray workers, one of which is killed in the middle: one row a picture?

python benchmarks/scale.py [--count 100000] [--model fast] [--shard-size 1000] [--folder DIR] [--driver]

Draws the pictures (JPEGs of 96 x 64 to 224 x 176; those that are in DIR already are taken), runs ``nnface detect --to``
on Ray, kills one worker with SIGKILL when a third of the shards is there, with --driver the whole run too when two
thirds are, then goes on, and compares with the run of the engine ``here``. Prints a verdict; exit code 0 or 1. Linux.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from nnface import scale

NNFACE = [sys.executable, "-m", "nnface"]


def draw(folder: Path, number: int) -> None:
    """A picture of its own: noise, with an oval that has eyes."""
    path = folder / f"{number // 1000:04}" / f"{number:07}.jpg"
    if path.exists():
        return
    rng = np.random.default_rng(number)
    width, height = (int(side) for side in rng.integers((96, 64), (225, 177)))
    image = cv2.resize(rng.integers(0, 120, (height // 8, width // 8, 3), np.uint8), (width, height))
    x, y, r = int(rng.integers(20, width - 20)), int(rng.integers(20, height - 20)), int(rng.integers(12, 30))
    cv2.ellipse(image, (x, y), (r, int(r * 1.3)), 0, 0, 360, [int(v) for v in rng.integers(120, 240, 3)], -1)
    for side in (-1, 1):
        cv2.circle(image, (x + side * r // 3, y - r // 3), max(r // 8, 1), (10, 10, 10), -1)
    path.parent.mkdir(exist_ok=True)
    _, data = cv2.imencode(".jpg", image)
    temporary = path.with_suffix(".part")
    temporary.write_bytes(data.tobytes())
    temporary.rename(path)


def workers(above: int) -> list[int]:
    """Ray's worker processes that descend from the process ``above``."""
    parents, named = {}, []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdecimal():
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if (folder / "cmdline").read_bytes().startswith(b"ray::Worker"):
                    named.append(int(folder.name))
        except OSError:  # it has just ended
            continue

    def descends(pid: int) -> bool:
        while pid in parents and pid != above:
            pid = parents[pid]
        return pid == above

    return [pid for pid in named if descends(pid)]


def run_and_kill(
    command: list[str], out: Path, shards: int, kill_worker: bool, kill_run: bool
) -> tuple[int, list[str]]:
    """Run on Ray; kills one worker at a third of the shards, and the run at two thirds."""
    told = []
    with subprocess.Popen(command, start_new_session=True) as process:
        while process.poll() is None:
            made = len(list(out.glob("part-*.parquet"))) if out.exists() else 0
            if kill_worker and made >= shards // 3 and (found := workers(process.pid)):
                os.kill(found[0], signal.SIGKILL)
                told.append(f"worker {found[0]} of {len(found)} killed at {made} of {shards} shards")
                kill_worker = False
            if kill_run and made >= 2 * shards // 3:
                process.kill()
                told.append(f"the run killed at {made} of {shards} shards")
                break
            time.sleep(0.05)
    return process.returncode, told


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--model", default="fast")
    parser.add_argument("--shard-size", type=int, default=1000)
    parser.add_argument("--folder", type=Path, help="where the pictures are drawn, and stay")
    parser.add_argument("--driver", action="store_true", help="kill the whole run, too")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as temporary:
        photos = (options.folder or Path(temporary) / "photos").absolute()
        photos.mkdir(exist_ok=True)
        begin = time.perf_counter()
        with ThreadPoolExecutor(2) as pool:
            for _ in pool.map(lambda number: draw(photos, number), range(options.count)):
                pass
        there = sum(1 for _ in photos.rglob("*.jpg"))
        print(f"{there} pictures in {photos}, {time.perf_counter() - begin:.0f} s", flush=True)

        command = [*NNFACE, "detect", str(photos), "--model", options.model, "--size", "160", "--threads", "2"]
        command += ["--shard-size", str(options.shard_size), "--to"]
        on_ray, here = Path(temporary) / "ray.parquet", Path(temporary) / "here.parquet"
        shards = -(-there // options.shard_size)
        begin = time.perf_counter()
        code, told = run_and_kill([*command, str(on_ray), "--engine", "ray"], on_ray, shards, True, options.driver)
        if options.driver:
            code, _ = run_and_kill([*command, str(on_ray), "--engine", "ray"], on_ray, shards, False, False)
        ray_seconds = time.perf_counter() - begin
        begin = time.perf_counter()
        subprocess.run([*command, str(here)], check=True)
        here_seconds = time.perf_counter() - begin

        rows = Counter(row.file for row in scale.read(on_ray))
        same = all(a.to_dict() == b.to_dict() for a, b in zip(scale.read(on_ray), scale.read(here), strict=True))
        faces = sum(len(row.faces or ()) for row in scale.read(here))
        files = {str(path) for path in photos.rglob("*.jpg")}
    for line in told:
        print(line)
    print(f"on Ray {ray_seconds:.0f} s, here {here_seconds:.0f} s; load {os.getloadavg()[0]:.1f}; {faces} faces")
    print(f"{len(rows)} pictures with rows, {sum(rows.values())} rows, {len(files)} pictures; equal to `here`: {same}")
    killed = len(told) == 1 + options.driver
    right = code == 0 and killed and same and rows.keys() == files and set(rows.values()) == {1}
    print("VERDICT: " + ("one row a picture" if right else "WRONG" if killed else "nothing was killed: too few shards"))
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
