"""From a predictor's ``model`` argument to what runs it."""

from pathlib import Path

from nnface.errors import UsageError
from nnface.runtime import Runner, open_model
from nnface.zoo import resolve


def opened(model: str | Path | Runner, device: str, threads: int | None) -> tuple[Runner, str]:
    """The runner of a file, of a name of the zoo, or a runner as it is; and what errors call it.

    Raises:
        ModelFileError: no such model, or a damaged one.
        DeviceError: the device is not there.
        UsageError: neither a file, a name nor a runner.
    """
    if isinstance(model, str | Path):
        return open_model(resolve(model), device, threads), str(model)
    if not hasattr(model, "spec"):
        raise UsageError(f"a model is a file, a name of the zoo or a runner, not {type(model).__name__}")
    return model, model.spec.architecture
