"""A model file as a TensorRT engine for this machine's GPU: the plan behind the header of :mod:`nnface.engine`.

TensorRT 10 is told by flags which precisions it may choose, and may choose none of them; TensorRT 11 has no flags and
computes in the types of the graph, which is therefore converted first. Either way the engine is asked which precisions
its layers have, and one that has not what was asked for is not written.
"""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import onnx
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.transformers.float16 import convert_float_to_float16

from nnface.engine import Built, Shape, pack
from nnface.errors import NnfaceError, UsageError
from nnface.export.graph import as_onnx, compare
from nnface.files import atomic_path
from nnface.runtime.onnx import OnnxRunner
from nnface.runtime.tensorrt import TensorrtRunner, gpu, layers, modules, trust
from nnface.spec import InputSpec, Spec

Precision = Literal["fp32", "fp16", "int8"]

WORKSPACE = 2 << 30
"""Bytes on the GPU that TensorRT may try its kernels in."""
TOLERANCES: Mapping[Precision, float] = {"fp32": 2e-3, "fp16": 3e-2, "int8": 1e-1}
"""Largest difference from ONNX Runtime on the same graph, which on a GPU adds in another order; see
:func:`nnface.export.graph.compare`."""


def export(
    model: str | Path,
    out: str | Path,
    *,
    precision: Precision | None = None,
    batch: int = 8,
    size: tuple[int, int] | None = None,
    device: int = 0,
) -> tuple[Spec, Built]:
    """Build an engine; the file gets its name only after it computed as ONNX Runtime does on the CPU.

    Args:
        model: a model file of ours, ONNX or safetensors (which needs torch).
        out: the file to write.
        precision: None: what the graph has. ``int8`` needs a graph that has it: TensorRT calibrates nothing here.
        batch: the most pictures at once; the engine is fastest at this number.
        size: the largest width and height of a detector's input; None: a square of what the network was made for.
        device: the number of the GPU.

    Raises:
        ModelFileError: ``model`` is no model file of ours.
        DependencyError: TensorRT is not installed.
        DeviceError: there is no such GPU.
        UsageError: a precision that the graph has not, or a size that the network cannot take.
        NnfaceError: ``out`` or the list of engines cannot be written, TensorRT cannot build the engine, chose other
            precisions, or computes something else.
    """
    trt, cuda = modules()
    name, capability = gpu(cuda, device)
    with TemporaryDirectory() as folder:
        source, spec = as_onnx(model, Path(folder))
        proto = onnx.load(source, load_external_data=False)
        precision = chosen_precision(proto, precision, str(model))
        shapes = profile(spec.input, batch, size, OnnxRunner(source, threads=1).batch)
        plan, counts = _build(trt, typed(proto, precision, _major(trt)), precision, shapes, str(model))
        check_precision(counts, precision, str(out))
        smallest, usual, largest = shapes
        built = Built(
            tensorrt=trt.__version__,
            gpu=name,
            capability=capability,
            precision=precision,
            layers=counts,
            smallest=smallest,
            usual=usual,
            largest=largest,
        )
        content = pack(built, spec.to_json(), plan)
        trust(content)  # before the comparison, which opens it as a file of nnface
        with atomic_path(out) as temporary:
            temporary.write_bytes(content)
            compare(TensorrtRunner(temporary, f"tensorrt:{device}").run, source, spec, str(out), TOLERANCES[precision])
    return spec, built


def chosen_precision(proto: onnx.ModelProto, wanted: Precision | None, model: str) -> Precision:
    """The precision to build for: the graph's own, or half of a float32 graph's.

    Raises:
        UsageError: the graph cannot be built so.
    """
    has: Precision = "fp32"
    if any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in proto.graph.initializer):
        has = "fp16"
    if any(node.op_type == "QuantizeLinear" for node in proto.graph.node):
        has = "int8"
    if wanted in (None, has) or (wanted, has) == ("fp16", "fp32"):
        return wanted or has
    remedy = "quantize it first: nnface export --to onnx with int8" if wanted == "int8" else "export the float32 file"
    raise UsageError(f"{model} computes in {has} and cannot be built in {wanted}; {remedy}")


def profile(
    plan: InputSpec, batch: int, size: tuple[int, int] | None, fixed: int | None = None
) -> tuple[Shape, Shape, Shape]:
    """The smallest, usual and largest shapes (N, 3, H, W) of the input.

    Free sides go from the multiple that the Spec names to ``size``; usual is that, or of the square a part of 4:3.

    Args:
        plan: the Spec's.
        batch: the most pictures at once.
        size: the largest width and height; None: a square of the Spec's size.
        fixed: the batch that the graph is fixed to.

    Raises:
        UsageError: a size for a network of fixed input, or one out of range.
    """
    least, most = (fixed, fixed) if fixed is not None else (1, batch)
    if not 1 <= most <= 1024:
        raise UsageError(f"the batch is {most}; it must lie between 1 and 1024")
    if plan.width is not None and plan.height is not None:
        if size not in (None, (plan.width, plan.height)):
            raise UsageError(f"the network has a fixed input of {plan.width} x {plan.height} and takes no other size")
        sides = (plan.height, plan.width)
        return (least, 3, *sides), (most, 3, *sides), (most, 3, *sides)
    width, height = (plan.size, plan.size) if size is None else size
    if not all(16 <= side <= 16384 for side in (width, height)):
        raise UsageError(f"the size is {width}x{height}; each side must have 16 to 16384 pixels")
    usual = height * 3 // 4 if size is None else height
    width, height, usual = (-(-side // plan.multiple) * plan.multiple for side in (width, height, usual))
    return (least, 3, plan.multiple, plan.multiple), (most, 3, usual, width), (most, 3, height, width)


def typed(proto: onnx.ModelProto, precision: Precision, major: int) -> bytes:
    """The graph that TensorRT of a major version parses: from 11 on in the types in which it is to compute."""
    has_halves = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in proto.graph.initializer)
    if precision == "fp16" and major >= 11 and not has_halves:
        proto = convert_float_to_float16(proto, keep_io_types=True)
        ONNXModel(proto).topological_sort()  # the converter puts its casts last
    return bytes(proto.SerializeToString())


def check_precision(counts: Mapping[str, int], precision: Precision, out: str) -> None:
    """Refuse an engine whose layers have not the precision that was asked for.

    Raises:
        NnfaceError: none of them has, or, for fp32, one has another.
    """
    others = {name: count for name, count in counts.items() if name != precision}
    if not counts.get(precision) or (precision == "fp32" and others):
        found = (
            ", ".join(f"{count} in {name}" for name, count in counts.items()) or "none that says what it computes in"
        )
        raise NnfaceError(f"cannot write {out}: {precision} was asked for, and TensorRT chose layers {found}")


def _build(
    trt: Any, graph: bytes, precision: Precision, shapes: tuple[Shape, Shape, Shape], model: str
) -> tuple[bytes, dict[str, int]]:
    """The plan, and how many layers have each precision."""
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    strict = _major(trt) >= 11
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) if strict else 0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph):
        said = parser.get_error(0).desc() if parser.num_errors else "no reason is given"
        raise NnfaceError(f"TensorRT {trt.__version__} cannot read {model}: {' '.join(said.split())[:200]}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # or the inspector does not tell precisions
    config.clear_flag(trt.BuilderFlag.TF32)  # which rounds float32 to ten bits
    if not strict and precision != "fp32":
        config.set_flag(trt.BuilderFlag.FP16)
        if precision == "int8":
            config.set_flag(trt.BuilderFlag.INT8)
    wanted = builder.create_optimization_profile()
    wanted.set_shape("input", *shapes)
    config.add_optimization_profile(wanted)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise NnfaceError(f"TensorRT {trt.__version__} cannot build an engine of {model}; its own messages say why")
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(plan)
    information = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return bytes(plan), layers(information)


def _major(trt: Any) -> int:
    return int(str(trt.__version__).split(".")[0])
