"""Draw average precision against time of all measured detectors: docs/images/frontier.png.

python benchmarks/frontier.py

Reads results/widerface-holdout.json, whose rows benchmarks/peers.py measured in one run: times of other runs or
machines do not belong beside them.
"""

import io
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from nnface.files import write_atomic

ROOT = Path(__file__).resolve().parents[1]


def short(row: dict[str, object]) -> str:
    """The detector and the size that it sees, as a label."""
    protocol = str(row["protocol"])
    size = "640" if protocol.startswith("vga") else protocol.split()[-1].partition("x")[0]
    name = str(row["detector"]).removeprefix("nnface ").removesuffix(".onnx in nnface")
    return name if name.endswith(size) else f"{name} {size}"


def main() -> None:
    rows = json.loads((ROOT / "results" / "widerface-holdout.json").read_text("utf-8"))["rows"]
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.6), sharex=True, layout="constrained")
    for axis, setting in zip(axes, ("easy", "medium", "hard"), strict=True):
        for row in rows:
            ours = row["detector"].startswith("nnface ")
            axis.plot(row["cpu_ms"], row[setting], "o" if ours else "s", color="#b0303a" if ours else "#8a8f98", ms=6)
            axis.annotate(
                short(row), (row["cpu_ms"], row[setting]), xytext=(4, 3), textcoords="offset points", fontsize=7
            )
        axis.set_xscale("log")
        axis.margins(x=0.22)
        axis.set_title(setting)
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("average precision, per cent")
    axes[1].set_xlabel("CPU milliseconds a picture, one thread")
    figure.suptitle("WIDER FACE, hold-out of 100 pictures: nnface (red circles) and others (grey squares)", fontsize=11)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=90)
    write_atomic(ROOT / "docs" / "images" / "frontier.png", picture.getvalue())


if __name__ == "__main__":
    main()
