"""Smaller numbers in an ONNX file of ours: fp16, or INT8 by static quantization, with what that costs beside it.

INT8 is per channel, with QuantizeLinear and DequantizeLinear around each operator (the QDQ form), which ONNX Runtime,
TensorRT and OpenVINO read; activations are unsigned, weights signed, the pair that processors with VNNI multiply
fastest. The first convolution and the last ones stay in float: the first sees three channels, which integers do not
hasten, and the last give what people see. What the quantizer and its calibrators compute is ONNX Runtime's.
"""

import io
import json
import logging
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QDQQuantizer,
    QuantType,
    create_calibrator,
)
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.transformers.float16 import convert_float_to_float16

from nnface.errors import NnfaceError, UsageError
from nnface.evaluation import agreement
from nnface.evaluation.agreement import Agreement, Comparison, Material
from nnface.evaluation.bench import Timing, alternate
from nnface.export.cost import MOST_LOST, Precision, Report, to_dict
from nnface.export.graph import as_onnx
from nnface.files import atomic_path, sha256, write_atomic
from nnface.predict.classifier import Classifier
from nnface.predict.detector import Detector
from nnface.predict.segmenter import Segmenter
from nnface.runtime.onnx import OnnxRunner
from nnface.spec import METADATA_KEY, Spec

Floats = NDArray[np.float32]

PICTURES = 150
"""So many are calibrated and compared on, unless told otherwise; every third of them is compared on."""
METHODS = {
    "minmax": (CalibrationMethod.MinMax, {}),
    "percentile": (CalibrationMethod.Percentile, {"percentile": 99.99, "symmetric": False}),
    "entropy": (CalibrationMethod.Entropy, {}),
}
"""How the range of each activation is chosen."""
OPERATORS = ("Conv", "Gemm", "MatMul", "Relu", "LeakyRelu", "Add", "Mul", "Concat", "MaxPool", "AveragePool",
             "GlobalAveragePool", "Resize")  # fmt: skip
"""What is quantized; shapes, decoding and softmax stay as they are."""

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_HALF_TOLERANCE = 0.03
"""Largest difference of a score, or of another output over its largest one."""
_ROUNDS = 30
_RANKED_ON = 4
_FEW = 6
"""Of fewer pictures or chips, all calibrate and all compare."""

logging.getLogger("onnxruntime.quantization").setLevel(logging.ERROR)


def convert(
    source: str | Path,
    out: str | Path,
    precision: Precision,
    *,
    calibrate: str | None = None,
    evaluate: str | None = None,
    pictures: int = PICTURES,
    method: str | None = None,
    most_lost: float | None = None,
    report_to: str | Path | None = None,
    say: Callable[[str], object] = lambda _: None,
) -> Report:
    """Write ``source``, an ONNX file of ours in float32, with weights and arithmetic of ``precision``.

    The inputs and outputs stay float32, so that every predictor runs the file as before. The report is written
    as JSON beside the file, and its figures go into the file's Spec.

    Args:
        source: the float32 file.
        out: replaced atomically.
        precision: ``fp16`` or ``int8``.
        calibrate: pictures whose activations are measured: a folder of photographs, or ``NAME:PATH`` of a data set,
            whose pictures for training are taken. Two thirds of them calibrate, one third compares. Faces for
            classifiers and parsers are found by the bundled detector. INT8 needs it.
        evaluate: ``NAME:PATH`` of labelled data (val, or the tenth of train that is kept for choosing), on which the
            loss is measured; None: on the agreement with the float model.
        pictures: the most to calibrate and compare on.
        method: of :data:`METHODS`; None: the one that loses least.
        most_lost: refuse to write what loses more points of a figure; None: warn beyond 1.
        report_to: the report's file; None: ``out`` with the suffix ``.json``.
        say: told what goes on.

    Raises:
        UsageError: INT8 without ``calibrate``, ``most_lost`` without pictures, a file that is not float32, data of
            another task.
        DataError: no picture, no face.
        ModelFileError: no ONNX file of ours.
        NnfaceError: more is lost than ``most_lost``, or ``out`` cannot be written.
    """
    before = _open_float(source, out, precision, calibrate)
    _require_measure(most_lost, calibrate, evaluate)
    spec = before.spec
    samples = None if evaluate is None else agreement.read_samples(spec.task, evaluate, training=False)
    material: Material = []
    if calibrate is not None:
        detector = None if spec.task == "detect" else Detector("default", threads=1)
        material = agreement.drawn(spec.task, spec, calibrate, pictures, detector)
    shown, held = _split(material)
    if precision == "int8" and len(material) < _FEW:
        say(f"there are only {len(material)} to calibrate on; the same ones compare, which hides what is lost")
    with tempfile.TemporaryDirectory() as folder:
        if samples is not None:
            say(f"measuring the float model on {len(samples)} labelled pictures")
        judge = _Judge(before, held, samples, evaluate, Path(folder))
        plain, _ = as_onnx(source, Path(folder))
        if precision == "fp16":
            choice = _Choice(_half(plain), "", (), {}, None)
            _require_like(before, judge.runner(choice.proto), str(out))
        else:
            inputs = [_input(before, item) for item in shown]
            methods = list(METHODS) if method is None else [method]
            choice = _quantized(plain, inputs, methods, judge, MOST_LOST if most_lost is None else most_lost, say)
        report = _report(choice, precision, judge, Path(source), len(shown))
    _refuse_loss(report.comparison, most_lost, out)
    _write(choice.proto, out, _described(spec, report, source, calibrate))
    write_atomic(report_to or Path(out).with_suffix(".json"), json.dumps(to_dict(report), indent=2) + "\n")
    return report


def _open_float(source: str | Path, out: str | Path, precision: Precision, calibrate: str | None) -> OnnxRunner:
    """The float32 model; refuses what cannot be asked of it."""
    if Path(out).exists() and Path(out).samefile(source):
        raise UsageError(f"{out} is the model file itself; name another file for --out")
    runner = OnnxRunner(source, threads=1)
    if known := runner.spec.provenance.get("precision"):
        raise UsageError(f"{source} is {known} already; give the file that it was made from")
    if precision == "int8" and calibrate is None:
        raise UsageError("int8 needs pictures whose activations it can measure: --calibrate FOLDER or NAME:PATH")
    return runner


def _require_measure(most_lost: float | None, calibrate: str | None, evaluate: str | None) -> None:
    if most_lost is not None and calibrate is None and evaluate is None:
        raise UsageError("--most-lost needs pictures on which the loss is measured: --evaluate or --calibrate")


def _refuse_loss(comparison: Comparison, most_lost: float | None, out: str | Path) -> None:
    if most_lost is not None and comparison.before and comparison.most_lost > most_lost:
        raise NnfaceError(
            f"{out} was not written: it would lose {comparison.most_lost:.2f} points on {comparison.on}, more than "
            f"--most-lost {most_lost:g}"
        )


@dataclass(frozen=True, slots=True)
class _Choice:
    proto: onnx.ModelProto
    method: str
    kept: Sequence[str]
    tried: Mapping[str, float]
    by_labels: Comparison | None


class _Judge:
    """Tells what a candidate loses."""

    def __init__(
        self,
        before: OnnxRunner,
        held: Material,
        samples: agreement.Samples | None,
        named: str | None,
        folder: Path,
    ) -> None:
        self.before, self.held, self.samples, self.named = before, held, samples, named
        self._folder, self._count = folder, 0
        self.agreement = Agreement(before, held) if held else None
        self._figures = None if samples is None else agreement.figures(before, samples)

    def runner(self, proto: onnx.ModelProto) -> OnnxRunner:
        self._count += 1
        path = self._folder / f"{self._count}.onnx"
        onnx.save(proto, path)
        return OnnxRunner(path, threads=1)

    def by_labels(self, proto: onnx.ModelProto) -> Comparison | None:
        """None where there are no labels."""
        if self.samples is None or self._figures is None:
            return None
        after = agreement.figures(self.runner(proto), self.samples)
        on = f"{len(self.samples)} labelled pictures of {self.named}"
        return Comparison(on=on, labelled=True, before=self._figures, after=after)

    def by_agreement(self, proto: onnx.ModelProto) -> Comparison | None:
        """None where there are no pictures."""
        if self.agreement is None:
            return None
        what = "pictures" if self.agreement.task == "detect" else "chips"
        on = f"the float model's answers for {len(self.held)} {what}"
        after = self.agreement.of(self.runner(proto))
        return Comparison(on=on, labelled=False, before=self.agreement.before, after=after)


def _report(choice: _Choice, precision: Precision, judge: _Judge, source: Path, calibrated: int) -> Report:
    """What the chosen network loses and how fast it is; as strict as what there is to measure on."""
    by_labels = choice.by_labels or judge.by_labels(choice.proto)
    agreed = judge.by_agreement(choice.proto)
    unseen = Comparison(on="random pixels", labelled=False, before={}, after={})
    speed, shape, batch = _speed(judge.before, judge.runner(choice.proto), precision, judge.held)
    return Report(
        precision=precision,
        comparison=by_labels or agreed or unseen,
        agreement=agreed if by_labels else None,
        speed=speed,
        batch=batch,
        input=shape,
        bytes=(source.stat().st_size, choice.proto.ByteSize()),
        method=choice.method,
        tried=choice.tried,
        kept=choice.kept,
        calibrated=calibrated,
    )


def _quantized(
    source: str | Path,
    inputs: Sequence[Floats],
    methods: Sequence[str],
    judge: _Judge,
    limit: float,
    say: Callable[[str], object],
) -> _Choice:
    """The calibration that loses least; where labels say that it loses too much, with more layers in float."""
    graph = onnx.load(source, load_external_data=False).graph
    fixed = _kept_in_float(graph)
    weighted = [node.name for node in graph.node if node.op_type in _WEIGHTED]
    if not set(weighted) - fixed:
        raise UsageError(f"{source} has no layer between its first and its last ones, so int8 would change nothing")
    method, ranges, proto, tried = _calibrated(source, inputs, methods, judge, fixed, say)
    kept = [name for name in weighted if name in fixed]
    labelled = judge.by_labels(proto)
    if labelled is None or labelled.most_lost <= limit:
        return _Choice(proto, method, kept, tried, labelled)
    say(f"it loses {labelled.most_lost:.2f} points; ranking the layers by the error that each makes")
    ranked = _ranked(source, ranges, [name for name in weighted if name not in fixed], fixed, inputs, judge)
    for count in (1, 2, 4, 8, 16):
        if count > len(ranked) // 2 or labelled.most_lost <= limit:
            break
        excluded = fixed | set(ranked[:count])
        trial = _quantize(source, ranges, excluded)
        now = judge.by_labels(trial)
        assert now is not None
        tried[f"{method}, {count} more in float"] = now.most_lost
        say(f"with {count} more layers in float it loses {now.most_lost:.2f} points")
        if now.most_lost < labelled.most_lost:
            labelled, proto, kept = now, trial, [name for name in weighted if name in excluded]
    return _Choice(proto, method, kept, tried, labelled)


def _calibrated(
    source: str | Path,
    inputs: Sequence[Floats],
    methods: Sequence[str],
    judge: _Judge,
    fixed: set[str],
    say: Callable[[str], object],
) -> tuple[str, Any, onnx.ModelProto, dict[str, float]]:
    """The method that agrees best with the float model, its ranges and its network; what each method loses."""
    tried: dict[str, float] = {}
    best: tuple[str, Any, onnx.ModelProto] | None = None
    for method in methods:
        say(f"calibrating on {len(inputs)} pictures by {method}")
        ranges = _ranges(source, inputs, method, judge.before.batch or 1)
        candidate = _quantize(source, ranges, fixed)
        agreed = judge.by_agreement(candidate)
        assert agreed is not None  # what calibrates compares
        # By the mean: single figures of few pictures jump.
        lost = float(np.mean(list(agreed.lost.values())))
        say(f"{method} is {lost:.2f} points from the float model, in the mean of {', '.join(agreed.lost)}")
        if best is None or lost < min(tried.values()):
            best = method, ranges, candidate
        tried[method] = lost
    assert best is not None
    return *best, tried


def _ranked(
    source: str | Path,
    ranges: Any,
    names: Sequence[str],
    fixed: set[str],
    inputs: Sequence[Floats],
    judge: _Judge,
) -> list[str]:
    """The layers, first the one that, quantized alone, moves the outputs most."""
    some = inputs[:_RANKED_ON]
    truth = [judge.before.run(batch) for batch in some]
    errors = {}
    for name in names:
        runner = judge.runner(_quantize(source, ranges, fixed, only=name))
        errors[name] = 0.0
        for batch, expected in zip(some, truth, strict=True):
            found = runner.run(batch)
            errors[name] += sum(float(np.square(found[k] - v).mean() / (v.var() + 1e-9)) for k, v in expected.items())
    return sorted(errors, key=lambda name: -errors[name])


def _kept_in_float(graph: onnx.GraphProto) -> set[str]:
    """Names of the first layer, the last layers with weights, and all that follows these."""
    makers = {output: node for node in graph.node for output in node.output}
    kept = {n.name for n in graph.node if n.op_type in _WEIGHTED and n.input[0] == graph.input[0].name}
    waiting = [output.name for output in graph.output]
    seen: set[str] = set()
    while waiting:
        node = makers.get(waiting.pop())
        if node is None or node.name in seen:
            continue
        seen.add(node.name)
        kept.add(node.name)
        if node.op_type not in _WEIGHTED:
            waiting += node.input
    return kept


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, batch: Floats) -> None:
        self._left: Iterator[dict[str, Floats]] = iter([{"input": batch}])

    def get_next(self) -> dict[str, Floats] | None:
        return next(self._left, None)


def _ranges(source: str | Path, inputs: Iterable[Floats], method: str, count: int) -> Any:
    """The range of every activation. A picture at a time, so that memory holds the activations of one.

    A network of fixed batch, ``count``, sees it so many times.
    """
    kind, options = METHODS[method]
    # The calibrators print what they do, picture by picture.
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        calibrator = create_calibrator(
            Path(source), list(OPERATORS), str(Path(folder) / "a.onnx"), kind, extra_options=options
        )
        for batch in inputs:
            calibrator.collect_data(_Reader(np.repeat(batch, count, 0)))
        return calibrator.compute_data()


def _quantize(source: str | Path, ranges: Any, excluded: set[str], only: str | None = None) -> onnx.ModelProto:
    proto = onnx.load(source, load_external_data=False)
    quantizer = QDQQuantizer(
        proto,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=ranges,
        nodes_to_quantize=[] if only is None else [only],
        nodes_to_exclude=sorted(excluded),
        op_types_to_quantize=list(OPERATORS),
        extra_options={"ForceQuantizeNoInputCheck": True},
    )
    quantizer.quantize_model()
    result = _sorted(quantizer.model.model)
    # Opset 17 has all that was put in; the quantizer names Microsoft's operators too, of which there are none.
    standard = [opset for opset in result.opset_import if opset.domain in ("", "ai.onnx")]
    if all(node.domain in ("", "ai.onnx") for node in result.graph.node):
        del result.opset_import[:]
        result.opset_import.extend(standard)
    return result


def _half(source: str | Path) -> onnx.ModelProto:
    """Weights and arithmetic in fp16, inputs and outputs in float32."""
    return _sorted(convert_float_to_float16(onnx.load(source, load_external_data=False), keep_io_types=True))


def _require_like(before: OnnxRunner, after: OnnxRunner, out: str) -> None:
    """Whether fp16 gives what float32 gives on random pixels; a network whose values leave fp16's range does not.

    Raises:
        NnfaceError: it does not.
    """
    plan = before.spec.input
    shape = (before.batch or 1, 3, plan.height or 128, plan.width or 160)
    images = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    found = after.run(images)
    for name, values in before.run(images).items():
        scale = 1.0 if name == "scores" else max(1.0, float(np.abs(values).max(initial=0)))
        difference = float(np.abs(found[name] - values).max(initial=0)) / scale
        if not difference <= _HALF_TOLERANCE:
            raise NnfaceError(
                f"cannot write {out}: in fp16 its {name} differ from float32's by {difference:.2g}, so this network "
                "needs more than fp16 holds; take int8 or float32"
            )


def _sorted(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Each node after those whose outputs it takes, as ONNX wants it."""
    ONNXModel(proto).topological_sort()
    return proto


def _split(material: Material) -> tuple[Material, Material]:
    """What calibrates, and the third that compares; both are all of it where there is little."""
    if len(material) < _FEW:
        return material, material
    return [x for i, x in enumerate(material) if i % 3], [x for i, x in enumerate(material) if not i % 3]  # type: ignore[return-value]


def _input(runner: OnnxRunner, item: Any) -> Floats:
    """The network's input for a picture's path, or a chip."""
    if runner.spec.task == "detect":
        return Detector(runner).prepare(item).input
    return (Classifier if runner.spec.task == "classify" else Segmenter)(runner).prepare([item])


def _speed(
    before: OnnxRunner, after: OnnxRunner, precision: str, held: Material
) -> tuple[dict[str, Timing], tuple[int, int], int]:
    """In turn, on one thread and by its clock, so that others on the machine count little: one picture, or 8 chips."""
    plan = before.spec.input
    if before.spec.task == "detect":
        width, height = plan.width or plan.size, plan.height or -(-plan.size * 3 // 4 // plan.multiple) * plan.multiple
        batch = before.batch or 1
    else:
        width, height, batch = plan.width or plan.size, plan.height or plan.size, before.batch or 8
    pixels = np.random.default_rng(0).standard_normal((batch, 3, height, width)).astype(np.float32)
    if before.spec.task != "detect" and len(held) >= batch:
        pixels = np.concatenate([_input(before, item) for item in held[:batch]])
    calls = {"float32": lambda: before.run(pixels), precision: lambda: after.run(pixels)}
    return alternate(calls, _ROUNDS, time.thread_time), (width, height), batch


def _described(spec: Spec, report: Report, source: str | Path, calibrate: str | None) -> Spec:
    """The Spec of the new file: its own figures, and the float model's under ``float32/``."""
    figures = {f"float32/{name}": value for name, value in spec.figures.items()}
    for comparison in (report.comparison, report.agreement):
        if comparison is not None:
            parts = {"labels": comparison.after, "before": comparison.before}
            if not comparison.labelled:
                parts = {"agreement": comparison.after}
            for part, values in parts.items():
                figures |= {f"{report.precision}/{part}/{k}": v for k, v in values.items() if math.isfinite(v)}
    figures[f"{report.precision}/times_as_fast"] = report.faster
    how = f"{report.precision}; inputs and outputs float32"
    if report.precision == "int8":
        how = (
            f"static, per channel, {report.method} on {report.calibrated} pictures of {calibrate}; in float: "
            f"{', '.join(report.kept)}"
        )
    made = {"precision": report.precision, "quantization": how, "float32_sha256": sha256(source)}
    if report.comparison.before:
        made["measured_on"] = report.comparison.on
    return replace(spec, figures=figures, provenance={**spec.provenance, **made})


def _write(proto: onnx.ModelProto, out: str | Path, spec: Spec) -> None:
    onnx.helper.set_model_props(proto, {METADATA_KEY: spec.to_json()})
    with atomic_path(out) as temporary:
        onnx.save(proto, temporary)
        try:
            onnx.checker.check_model(str(temporary), full_check=True)
        except onnx.checker.ValidationError as error:
            raise NnfaceError(f"cannot write {out}: the graph is not valid ONNX: {error}") from error
        OnnxRunner(temporary, threads=1)
