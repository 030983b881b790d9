"""OpenVINO: Intel's runtime, for its GPUs and NPUs, and for CPUs where it proves faster (``nnface bench`` tells).

It runs the same ONNX files as ONNX Runtime, and what ``nnface export --to openvino`` writes. Both are untrusted: they
are read once, checked as those bytes and run from them. Nothing here goes through OpenVINO's converter, which reports
its use to Intel where openvino-telemetry is installed and not opted out of.
"""

import hashlib
import re
import threading
from pathlib import Path

import numpy as np
import openvino
from numpy.typing import NDArray

from nnface.errors import DeviceError, ModelFileError
from nnface.header import read_content, read_header
from nnface.intermediate import metadata
from nnface.processors import physical_cores
from nnface.runtime.promise import check_outputs, expected_outputs, in_parts, refuse_selected
from nnface.spec import METADATA_KEY


class OpenvinoRunner:
    """An ONNX or OpenVINO file with a Spec, ready to run; see :class:`nnface.runtime.Runner`."""

    def __init__(self, path: str | Path, device: str = "openvino", threads: int | None = None) -> None:
        """Open the file.

        Args:
            path: of the ONNX file, or of OpenVINO's XML, whose weights lie beside it as NAME.bin.
            device: ``openvino``, which is its CPU, ``openvino:GPU``, ``openvino:GPU.1`` or ``openvino:NPU``.
            threads: on the CPU; None: the physical cores that this process may use.

        Raises:
            ModelFileError: not there, foreign, damaged, or not what its Spec says.
            DeviceError: the device is not there.
        """
        self.path = Path(path)
        core = openvino.Core()
        name = _find(core, device)
        self.device = device
        content = read_content(self.path)
        kind, self.spec = read_header(memoryview(content), str(path))
        if kind not in ("onnx", "openvino"):
            raise ModelFileError(f"{path} is a {kind} file; OpenVINO needs ONNX or its own, which nnface export writes")
        refuse_selected(self.spec, path)
        self._outputs = expected_outputs(self.spec)
        weights = _weights(self.path, content) if kind == "openvino" else b""
        try:
            model = core.read_model(content, weights) if weights else core.read_model(content)
            names = {name for output in model.outputs for name in output.get_names()}
            inputs = [name for port in model.inputs for name in port.get_names()]
        except Exception as error:  # OpenVINO has no common base class below it
            raise ModelFileError(f"{path} cannot be run: {_sentence(error)}") from error
        if inputs != ["input"] or len(model.inputs) != 1:
            raise ModelFileError(f"{path} is not what its nnface metadata says: it has not one input called input")
        if missing := [name for name in self._outputs if name not in names]:
            raise ModelFileError(f"{path} is not what its nnface metadata says: it has no output called {missing[0]}")
        count = model.inputs[0].get_partial_shape()[0]
        self.batch: int | None = None if count.is_dynamic else count.get_length()
        """The batch that the file is fixed to; :meth:`run` takes any, in parts of it."""
        # On its own, OpenVINO computes in bfloat16 or float16 where the machine is fast at it.
        settings: dict[str, object] = {"PERFORMANCE_HINT": "LATENCY"}
        if not name.startswith("NPU"):  # which computes in float16 alone
            settings["INFERENCE_PRECISION_HINT"] = "f32"
        if name == "CPU":
            settings["INFERENCE_NUM_THREADS"] = threads or physical_cores()
        try:
            self._compiled = core.compile_model(model, name, settings)
        except Exception as error:
            raise ModelFileError(f"{path} cannot be run on {device}: {_sentence(error)}") from error
        self._local = threading.local()  # an infer request serves one thread at a time

    def run(self, batch: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """See :meth:`nnface.runtime.Runner.run`.

        Raises:
            ModelFileError: the network fails, or its outputs do not have the shapes that its Spec promises.
        """
        if self.batch is not None and len(batch) != self.batch:
            return in_parts(self.run, batch, self.batch, fill=True)
        if not hasattr(self._local, "request"):
            self._local.request = self._compiled.create_infer_request()
        request = self._local.request
        try:
            request.infer({"input": np.ascontiguousarray(batch, np.float32)}, share_inputs=True)
            outputs = {name: np.array(request.get_tensor(name).data, np.float32) for name in self._outputs}
        except Exception as error:
            raise ModelFileError(
                f"{self.path} failed on an input of shape {batch.shape}: {_sentence(error)}"
            ) from error
        check_outputs(outputs, self._outputs, len(batch), self.path)
        return outputs


def _find(core: openvino.Core, device: str) -> str:
    """OpenVINO's name of a device."""
    match = re.fullmatch(r"openvino(?::(CPU|GPU|NPU)(\.\d{1,2})?)?", device, re.IGNORECASE)
    if match is None:
        raise DeviceError(f"device {device!r} is not known; OpenVINO's are openvino, openvino:GPU and openvino:NPU")
    name = f"{match[1] or 'CPU'}{match[2] or ''}".upper()
    there = core.available_devices
    if name not in there and not any(other.split(".")[0] == name for other in there):
        raise DeviceError(
            f"OpenVINO finds no {name} here, only {', '.join(there) or 'nothing'}; install the driver of the device, "
            "or use --device openvino"
        )
    return name


def _weights(path: Path, xml: bytes) -> bytes:
    """The weights beside an OpenVINO graph, if they are its own."""
    wanted = metadata(xml, str(path), METADATA_KEY)[1]
    beside = path.with_suffix(".bin")
    weights = read_content(beside)
    if hashlib.sha256(weights).hexdigest() != wanted:
        raise ModelFileError(f"{beside} holds other weights than those that {path} was written with; export both anew")
    return weights


def _sentence(error: Exception) -> str:
    """The last line of OpenVINO's message; those before say where in its source it was."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__
