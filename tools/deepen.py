#!/usr/bin/env python3
"""Give an anchor-free detector or a compact classifier more residual blocks, each of which begins as the identity.

    tools/deepen.py MODEL.safetensors --depths 1,2,2,2 --out deeper.safetensors

The deeper network answers as the given one does, and training goes on from there (Chen, Goodfellow and Shlens,
"Net2Net: accelerating learning via knowledge transfer", ICLR 2016): new blocks stand behind those of their stage, and
the scale of their second batch norm is zero. Train it with ``--init deeper.safetensors``, and the same depths in
``--set 'model.settings={...}'``.
"""

import argparse
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

from torch import nn

from nnface.models import file
from nnface.models.anchorfree import AnchorFree
from nnface.models.classifier import CompactClassifier
from nnface.models.create import create


def deepen_detector(module, deeper):
    """New blocks of a detector begin as the identity by themselves, and the others keep their names."""
    deeper.load_state_dict({**deeper.state_dict(), **module.state_dict()})


def deepen_classifier(module, deeper, before, after):
    """The blocks of a classifier stand in one row, so those behind new ones have new numbers."""
    old = iter(module.body)
    for start, depth, known in zip(accumulate([0, *after[:-1]]), after, before, strict=True):
        for index in range(depth):
            block = deeper.body[start + index]
            if index < known:
                block.load_state_dict(next(old).state_dict())
            else:
                nn.init.zeros_(block.bn2.weight)
    deeper.stem.load_state_dict(module.stem.state_dict())
    deeper.fc.load_state_dict(module.fc.state_dict())


def main():
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--depths", type=lambda words: [int(word) for word in words.split(",")], required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    module, spec = file.load(options.model)
    if not isinstance(module, AnchorFree | CompactClassifier):
        raise SystemExit(f"{options.model} is neither an anchor-free detector nor a compact classifier")
    before, after = list(spec.settings["depths"]), options.depths
    if len(before) != len(after) or any(b > a for b, a in zip(before, after, strict=True)):
        raise SystemExit(f"{options.model} has depths {before}; --depths takes as many numbers, none smaller")
    settings = {**spec.settings, "depths": after}
    deeper = create(spec.architecture, settings)
    if isinstance(module, AnchorFree):
        deepen_detector(module, deeper)
    else:
        deepen_classifier(module, deeper, before, after)
    file.save(options.out, deeper, replace(spec, settings=settings, figures={}))


if __name__ == "__main__":
    main()
