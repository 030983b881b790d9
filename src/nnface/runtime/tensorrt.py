"""TensorRT engines that ``nnface export --to tensorrt`` built: the plan behind the header of :mod:`nnface.engine`.

A plan is code, and TensorRT does not check it. So an engine runs only where it was built: its SHA-256 is then on a list
in nnface's own folder. Whoever trusts another one says so with ``NNFACE_TRUST_ENGINES=1``.

A batch is copied to the GPU once, and its outputs back once; the memory there is kept from call to call.
"""

import hashlib
import json
import os
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnface.engine import Built, unpack
from nnface.errors import DependencyError, DeviceError, ModelFileError, NnfaceError
from nnface.header import read_content
from nnface.runtime.promise import check_outputs, expected_outputs, in_parts
from nnface.spec import parse
from nnface.zoo.registry import home

Runtime = tuple[Any, Any]
"""The modules ``tensorrt`` and ``cuda.bindings.runtime``."""


class TensorrtRunner:
    """An engine, ready to run; see :class:`nnface.runtime.Runner`."""

    def __init__(self, path: str | Path, device: str = "tensorrt") -> None:
        """Open the file.

        Args:
            path: of the engine.
            device: ``tensorrt`` or ``tensorrt:N``.

        Raises:
            ModelFileError: not there, foreign, damaged, or not what its Spec says; or not built here.
            DeviceError: another device, no GPU, or another GPU or TensorRT than it was built for.
            DependencyError: TensorRT is not installed.
        """
        self.path = Path(path)
        match = re.fullmatch(r"tensorrt(?::(\d{1,3}))?", device)
        if match is None:
            raise DeviceError(f"{path} is a TensorRT engine and does not run on {device}; use --device tensorrt")
        content = read_content(self.path)
        built, text, plan = unpack(memoryview(content), str(path))
        self.spec = parse(text, str(path))
        self.built = built
        self.device = device
        self._outputs = expected_outputs(self.spec)
        require_trust(content, str(path))
        self._trt, self._cuda = modules()
        number = int(match[1] or 0)
        self._number = number
        require_fit(built, self._trt.__version__, *gpu(self._cuda, number), str(path))
        self._lock = threading.Lock()  # one context, one stream
        self._buffers: dict[str, tuple[int, int]] = {}
        self._logger = self._trt.Logger(self._trt.Logger.ERROR)
        runtime = self._trt.Runtime(self._logger)
        self._engine = runtime.deserialize_cuda_engine(bytes(plan))
        if self._engine is None:
            raise ModelFileError(f"{path} is refused by TensorRT; build it anew with nnface export --to tensorrt")
        names = {self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)}
        if not {"input", *self._outputs} <= names:
            raise ModelFileError(f"{path} is not what its nnface metadata says: it has {', '.join(sorted(names))}")
        self._context = self._engine.create_execution_context()
        self._stream = call(self._cuda.cudaStreamCreate())

    def run(self, batch: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """See :meth:`nnface.runtime.Runner.run`.

        Raises:
            ModelFileError: a picture larger than the engine's profile, or the engine fails.
        """
        largest = self.built.largest[0]
        if len(batch) > largest:
            return in_parts(self.run, batch, largest, fill=False)
        filled = max(self.built.smallest[0], len(batch))
        check_profile(self.built, (filled, *batch.shape[1:]), str(self.path))
        if filled > len(batch):
            return in_parts(self.run, batch, filled, fill=True)
        with self._lock:
            return self._run(np.ascontiguousarray(batch, np.float32))

    def _run(self, batch: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        cuda, context = self._cuda, self._context
        call(cuda.cudaSetDevice(self._number))
        if not context.set_input_shape("input", batch.shape):
            raise ModelFileError(f"{self.path} takes no input of shape {batch.shape}")
        outputs = {name: np.empty(tuple(context.get_tensor_shape(name)), np.float32) for name in self._outputs}
        for name, array in {"input": batch, **outputs}.items():
            context.set_tensor_address(name, self._buffer(name, array.nbytes))
        to, back = cuda.cudaMemcpyKind.cudaMemcpyHostToDevice, cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        call(cuda.cudaMemcpyAsync(self._buffers["input"][0], batch.ctypes.data, batch.nbytes, to, self._stream))
        if not context.execute_async_v3(self._stream):
            raise ModelFileError(f"{self.path} failed on an input of shape {batch.shape}")
        for name, array in outputs.items():
            call(cuda.cudaMemcpyAsync(array.ctypes.data, self._buffers[name][0], array.nbytes, back, self._stream))
        call(cuda.cudaStreamSynchronize(self._stream))
        check_outputs(outputs, self._outputs, len(batch), self.path)
        return outputs

    def _buffer(self, name: str, size: int) -> int:
        """An address on the GPU with room for ``size`` bytes."""
        address, room = self._buffers.get(name, (0, 0))
        if room < size:
            if address:
                call(self._cuda.cudaFree(address))
            address = int(call(self._cuda.cudaMalloc(size)))
            self._buffers[name] = address, size
        return address


def modules() -> Runtime:
    """TensorRT and CUDA's runtime.

    Raises:
        DependencyError: one is not installed.
    """
    try:
        import tensorrt
        from cuda.bindings import runtime
    except ImportError as error:
        missing = (error.name or str(error)).split(".")[0]
        raise DependencyError(
            f"TensorRT engines need {missing}, an NVIDIA GPU and its driver: pip install 'nnface[tensorrt]'"
        ) from error
    return tensorrt, runtime


def gpu(cuda: Any, number: int) -> tuple[str, str]:
    """Name and compute capability of a GPU.

    Raises:
        DeviceError: there is none of this number.
    """
    error, count = cuda.cudaGetDeviceCount()
    if int(error) or number >= count:
        raise DeviceError(
            f"TensorRT needs an NVIDIA GPU, and CUDA finds {0 if int(error) else count} here; "
            "where there is one, its driver has to be installed (nvidia-smi shows it)"
        )
    call(cuda.cudaSetDevice(number))
    found = call(cuda.cudaGetDeviceProperties(number))
    name = found.name.decode() if isinstance(found.name, bytes) else str(found.name)
    return name.rstrip("\0"), f"{found.major}.{found.minor}"


def call(result: Any) -> Any:
    """What a call of CUDA's runtime gives besides its error code.

    Raises:
        MemoryError: the GPU's memory is full.
        DeviceError: any other error.
    """
    error, *values = result if isinstance(result, tuple) else (result,)
    if int(error) == 2:
        raise MemoryError("the GPU's memory is full")
    if int(error):
        raise DeviceError(f"CUDA failed with {getattr(error, 'name', error)}")
    return values[0] if values else None


def require_fit(built: Built, tensorrt: str, name: str, capability: str, origin: str) -> None:
    """Refuse an engine that was built by another TensorRT, or for another kind of GPU.

    Raises:
        DeviceError: it was.
    """
    if built.tensorrt != tensorrt:
        found, wanted = f"TensorRT {tensorrt} is", f"by TensorRT {built.tensorrt}"
    elif (built.gpu, built.capability) != (name, capability):
        found, wanted = f"the GPU is {name} ({capability})", f"for {built.gpu} ({built.capability})"
    else:
        return
    raise DeviceError(f"{origin} was built {wanted}, and {found} here; build it anew: nnface export --to tensorrt")


def check_profile(built: Built, shape: tuple[int, ...], origin: str) -> None:
    """Refuse an input outside the engine's profile.

    Raises:
        ModelFileError: it is outside.
    """
    low, high = built.smallest, built.largest
    if len(shape) != 4 or any(not a <= side <= b for a, side, b in zip(low, shape, high, strict=True)):
        raise ModelFileError(
            f"{origin} was built for inputs from {low[3]}x{low[2]} to {high[3]}x{high[2]} pixels, not for "
            f"{'x'.join(map(str, shape[:1:-1]))}; detect with a smaller --size, or export it with a larger one"
        )


def trust(content: bytes) -> None:
    """Put an engine on the list of those that were built here.

    Raises:
        NnfaceError: the list cannot be written.
    """
    path = _list()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="ascii") as file:  # one short line: what several processes append does not mix
            file.write(hashlib.sha256(content).hexdigest() + "\n")
    except OSError as error:
        raise NnfaceError(
            f"cannot write {path}, the list of engines that were built here: {error.strerror or error}; set "
            "NNFACE_HOME to a folder that can be written"
        ) from error


def require_trust(content: bytes, origin: str) -> None:
    """Refuse an engine that was not built here, unless ``NNFACE_TRUST_ENGINES`` is 1.

    Raises:
        ModelFileError: it is a stranger.
    """
    if os.environ.get("NNFACE_TRUST_ENGINES") == "1":
        return
    try:
        known = _list().read_text("ascii", errors="replace").split()
    except OSError:
        known = []
    if hashlib.sha256(content).hexdigest() not in known:
        raise ModelFileError(
            f"{origin} is a TensorRT engine that was not built here, and an engine is code; build it with nnface "
            "export --to tensorrt, or set NNFACE_TRUST_ENGINES=1 if you trust who made it"
        )


def layers(information: str) -> dict[str, int]:
    """How many layers give their output in each precision, from the JSON of TensorRT's engine inspector.

    Of layers that only move or reformat numbers nothing is counted.
    """
    counts: dict[str, int] = {}
    for layer in json.loads(information)["Layers"]:
        if not isinstance(layer, dict) or re.search(r"reformat|shuffle|constant|noop", layer["LayerType"], re.I):
            continue
        text = " ".join(str(output.get("Format/Datatype", "")) for output in layer.get("Outputs", []))
        for name, pattern in _PRECISIONS.items():
            if re.search(pattern, text, re.I):
                counts[name] = counts.get(name, 0) + 1
                break
    return counts


_PRECISIONS = {"int8": r"int8", "fp8": r"fp8", "bf16": r"bf16|bfloat16", "fp16": r"fp16|half", "fp32": r"fp32|float"}


def _list() -> Path:
    return home() / "engines.txt"
