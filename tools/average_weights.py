#!/usr/bin/env python3
"""The weighted mean of two model files of one network, of which one started from the other.

    tools/average_weights.py A.safetensors B.safetensors --share 0.3 --out mean.safetensors

Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing
inference time", ICML 2022. ``--share`` is B's; choose it on the tenth kept for choosing.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from nnface.models import file


def main():
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a", type=Path)
    parser.add_argument("b", type=Path)
    parser.add_argument("--share", type=float, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    (module, spec), (other, about) = file.load(options.a), file.load(options.b)
    if (spec.architecture, spec.settings) != (about.architecture, about.settings):
        raise SystemExit(f"{options.b} is another network than {options.a}")
    first, second, share = module.state_dict(), other.state_dict(), options.share
    mean = {k: v * (1 - share) + second[k] * share if v.is_floating_point() else v for k, v in first.items()}
    module.load_state_dict(mean)
    names = [s.provenance.get("recipe", "?") for s in (spec, about)]
    words = f"{1 - share:g} of {names[0]} and {share:g} of {names[1]}"
    file.save(options.out, module, replace(spec, figures={}, provenance={**spec.provenance, "average": words}))


if __name__ == "__main__":
    main()
