"""dchen236/FairFace: a ResNet-34 that tells race, gender and age, in a version of 7 races and one of 4.

Both files have 18 outputs. Of the second one's seven places for races only the first four were trained, and nothing in
the file says so: who imports it does.
"""

from dataclasses import replace

from torch import nn

from nnface.errors import UsageError
from nnface.export.published.checkpoint import Checkpoint, fit
from nnface.models.create import create, default_spec
from nnface.spec import FAIRFACE_HEADS, Spec

ARCHITECTURE = "classifier-resnet34"
TERMS = "no licence stated by dchen236/FairFace; its data: CC BY 4.0 (Karkkainen and Joo)"


def network(checkpoint: Checkpoint, races: int) -> tuple[nn.Module, Spec]:
    """The network and its Spec.

    Raises:
        UsageError: the project has no version of so many races.
    """
    if races not in (4, 7):
        raise UsageError(f"FairFace has networks of 7 and of 4 races; --races {races} is neither")
    _, module = fit(checkpoint, [ARCHITECTURE])
    settings = {} if races == 7 else {"races": races}
    if races == 4:
        state = module.state_dict()
        kept = [*range(races), *range(len(FAIRFACE_HEADS["race"]), len(state["fc.bias"]))]
        module = create(ARCHITECTURE, settings)
        module.load_state_dict({k: v[kept] if k.startswith("fc.") else v for k, v in state.items()})
    spec = default_spec(ARCHITECTURE, licence=TERMS, **settings)
    return module.eval(), replace(spec, provenance={"data": "FairFace, with ImageNet before", "terms": TERMS})
