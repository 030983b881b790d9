"""A small training of a detector, in a process of its own: of the fixtures `small` and `data`."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

SMALL = """
name = "small"
seed = 3
size = 128
licence = "none: generated data"
[model]
architecture = "anchorfree"
settings = { stem = 8, widths = [8, 8, 16, 16], neck = 16, head_depth = 1 }
[optimizer]
lr = 2e-3
lr_batch = 4
[loop]
steps = 24
batch = 4
ema = 0.9
log_every = 1
save_every = 4
evaluate_every = 12
[crops]
size = 64
mosaic = 0.3
occlude = 0.2
[evaluation]
sizes = [128]
best = 128
"""


def command(small, data, out, *more):
    source = ["--data", f"widerface:{data}", "--out", str(out)]
    return [sys.executable, "-m", "nnface", "train", str(small), *source, "--threads", "1", *more]


def run(small, data, out, *more):
    return subprocess.run(command(small, data, out, *more), capture_output=True, text=True)


def begin(small, data, out, *more):
    return subprocess.Popen(command(small, data, out, *more), stderr=subprocess.PIPE, text=True)


def wait_for(process, words):
    """Read the process's progress until a line has the words."""
    for line in process.stderr:
        if words in line:
            return
    pytest.fail(f"the training ended before it said {words!r}")


def same(a, b):
    first, second = load_file(a), load_file(b)
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)
