#!/usr/bin/env python3
"""Join compact classifiers, each trained by itself, into one model file that gives the mean of their logits.

    tools/join_classifiers.py A.safetensors B.onnx... --out both.safetensors [--shares 0.6,0.4]

Members are model files, or ONNX files that nnface exported, the bundled ones among them.

``--shares`` weighs the members (by default alike) and goes into their last layers. Choose it on the tenth kept for
choosing.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from nnface.models import file
from nnface.models.classifier import ClassifierEnsemble
from nnface.models.create import create
from nnface.training.initial import initial_weights


def main():
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--shares", type=lambda words: [float(word) for word in words.split(",")])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    noise = torch.randn(8, 3, 96, 96, generator=torch.Generator().manual_seed(0))  # for the norms of ONNX files
    members = [initial_weights(path, noise) for path in options.models]
    shares = options.shares or [1 / len(members)] * len(members)
    if len(shares) != len(members) or abs(sum(shares) - 1) > 1e-6:
        raise SystemExit(f"--shares must be {len(members)} numbers that add up to 1")
    spec = members[0][1]
    for path, (_, other) in zip(options.models, members, strict=True):
        if other.architecture != "classifier-compact" or other.settings != spec.settings:
            raise SystemExit(f"{path} is no compact classifier of the settings {dict(spec.settings)}")
    settings = {**spec.settings, "members": len(members)}
    joined = create("classifier-ensemble", settings)
    assert isinstance(joined, ClassifierEnsemble)
    for place, (weights, _), share in zip(joined.members, members, shares, strict=True):
        place.load_state_dict(weights)
        with torch.no_grad():
            for tensor in place.fc.parameters():
                tensor.mul_(share * len(members))  # the network takes the plain mean
    words = "; ".join(
        f"{share:g} of {other.provenance.get('average', other.provenance.get('recipe', '?'))}"
        for share, (_, other) in zip(shares, members, strict=True)
    )
    shared = {name: word for name, word in spec.provenance.items() if name not in ("average", "init")}
    provenance = {**shared, "members": words}
    file.save(
        options.out,
        joined,
        replace(spec, architecture="classifier-ensemble", settings=settings, figures={}, provenance=provenance),
    )


if __name__ == "__main__":
    main()
