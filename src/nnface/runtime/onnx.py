"""ONNX Runtime: the runtime of the small wheel.

The file is untrusted: it is read once, checked as those bytes and run from them, may not name other files, and has to
have the inputs and outputs that its Spec promises.
"""

import re
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from nnface.errors import DeviceError, ModelFileError
from nnface.header import read_content, read_header
from nnface.processors import physical_cores
from nnface.runtime.promise import check_outputs, expected_outputs, in_parts, refuse_selected

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}


class OnnxRunner:
    """An ONNX file with a Spec in its metadata, ready to run; see :class:`nnface.runtime.Runner`."""

    def __init__(self, path: str | Path, device: str = "cpu", threads: int | None = None) -> None:
        """Open the file.

        Args:
            path: of the ONNX file.
            device: ``cpu``, ``cuda``, ``cuda:N``, ``tensorrt`` or ``tensorrt:N``.
            threads: for the network's operators; None: :func:`nnface.processors.physical_cores`.

        Raises:
            ModelFileError: not there, not ONNX, without a Spec, damaged, or not what its Spec says.
            DeviceError: the device is not there.
        """
        self.path = Path(path)
        self.device = device
        providers = _providers(device)
        content = read_content(self.path)
        kind, self.spec = read_header(memoryview(content), str(path))
        if kind != "onnx":
            raise ModelFileError(f"{path} is a {kind} file; ONNX Runtime needs ONNX, which nnface export writes")
        refuse_selected(self.spec, path)
        self._outputs = expected_outputs(self.spec)
        self.batch: int | None = None
        """The batch that the file is fixed to; :meth:`run` takes any, in parts of it."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or physical_cores()
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # errors come as exceptions
        # Spinning threads burn the cores that decode the next pictures.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            # Without enable_fallback=0, what fails is tried once more on the CPU, and said on stdout.
            self._session = onnxruntime.InferenceSession(content, options, providers=providers, enable_fallback=0)
            self._check_signature()
        except ModelFileError:
            raise
        except (
            Exception
        ) as error:  # ONNX Runtime has no common base class below it; names that are no UTF-8 get here too
            raise ModelFileError(f"{path} cannot be run: {_sentence(error)}") from error
        if self._session.get_providers()[0] != _provider_name(providers[0]):
            raise DeviceError(f"{device} is not usable here: ONNX Runtime could not start it; use --device cpu")

    def run(self, batch: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """See :meth:`nnface.runtime.Runner.run`.

        Raises:
            ModelFileError: the network fails, or its outputs do not have the shapes that its Spec promises.
            MemoryError: the input is too large for this machine.
        """
        if self.batch is not None and len(batch) != self.batch:
            return in_parts(self.run, batch, self.batch, fill=True)
        try:
            arrays = self._session.run(list(self._outputs), {"input": batch})
        except Exception as error:
            if "Failed to allocate memory" in str(error) or "bad_alloc" in str(error):
                raise MemoryError(f"not enough memory for an input of shape {batch.shape}") from error
            raise ModelFileError(
                f"{self.path} failed on an input of shape {batch.shape}: {_sentence(error)}"
            ) from error
        outputs = dict(zip(self._outputs, arrays, strict=True))
        check_outputs(outputs, self._outputs, len(batch), self.path)
        return outputs

    def _check_signature(self) -> None:
        """The session's inputs and outputs against the Spec, so that a lie is found before the first picture."""
        inputs = self._session.get_inputs()
        if [i.name for i in inputs] != ["input"] or inputs[0].type != "tensor(float)" or len(inputs[0].shape) != 4:
            raise self._lie("it does not have one float input (N, 3, height, width) called input")
        count, channels, *sides = inputs[0].shape
        self.batch = count if isinstance(count, int) else None
        wanted = [self.spec.input.height, self.spec.input.width]
        fixed = [side if isinstance(side, int) else None for side in sides]
        if channels != 3 and isinstance(channels, int):
            raise self._lie(f"its input has {channels} channels, not 3")
        if any(side is not None and side != want for side, want in zip(fixed, wanted, strict=True)):
            raise self._lie(f"its input is {fixed[1]} x {fixed[0]}, which its nnface metadata does not say")
        outputs = {o.name: o for o in self._session.get_outputs()}
        for name, tail in self._outputs.items():
            if name not in outputs:
                raise self._lie(f"it has no output called {name}")
            if outputs[name].type != "tensor(float)":
                raise self._lie(f"its output {name} is {outputs[name].type}, not float")
            shape = outputs[name].shape
            if shape and len(shape) != len(tail) + 1:
                raise self._lie(f"its output {name} has {len(shape)} axes, not {len(tail) + 1}")

    def _lie(self, what: str) -> ModelFileError:
        return ModelFileError(f"{self.path} is not what its nnface metadata says: {what}")


def _providers(device: str) -> list[str | tuple[str, dict[str, str]]]:
    match = re.fullmatch(r"(cpu|cuda|tensorrt)(?::(\d{1,3}))?", device)
    if match is None or (match[1] == "cpu" and match[2] is not None):
        raise DeviceError(f"device {device!r} is not known; ONNX files run on cpu, cuda, cuda:N, tensorrt or openvino")
    provider = _PROVIDERS[match[1]]
    if provider not in onnxruntime.get_available_providers():
        both = all(_installed(name) for name in ("onnxruntime", "onnxruntime-gpu"))
        remedy = (
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other: pip uninstall both, then "
            "pip install onnxruntime-gpu"
            if both
            else "pip uninstall onnxruntime, then pip install onnxruntime-gpu, or use --device cpu"
        )
        raise DeviceError(f"the installed ONNX Runtime has no {match[1]}; {remedy}")
    return [provider if match[1] == "cpu" else (provider, {"device_id": match[2] or "0"})]


def _provider_name(provider: str | tuple[str, dict[str, str]]) -> str:
    return provider if isinstance(provider, str) else provider[0]


def _installed(distribution: str) -> bool:
    from importlib import metadata  # here: it takes as long to import as a photograph takes to look through

    try:
        metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _sentence(error: Exception) -> str:
    """The first line of ONNX Runtime's message, without its codes."""
    lines = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error)).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
