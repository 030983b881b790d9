"""How fast model files run on this machine: latency, throughput, memory, and where the time goes.

Configurations take turns, a round each, so that a busy moment of the machine hits all of them; medians are compared,
and the spread beside them says how busy it was.
"""

import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from nnface.errors import NnfaceError, UsageError
from nnface.header import read_spec
from nnface.image import read, read_reduced
from nnface.predict.chips import whole
from nnface.predict.classifier import Classifier, softmax, viewed
from nnface.predict.detector import Detector, Size
from nnface.predict.segmenter import Canvas, Segmenter
from nnface.processors import physical_cores
from nnface.report.table import Table
from nnface.version import __version__
from nnface.zoo import resolve

STAGES = ("read", "prepare", "network", "select")
WARM_UP = 3

Predictor = Detector | Classifier | Segmenter
Seconds = list[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Of one thing that was done many times; milliseconds."""

    median: float
    low: float
    """A tenth took less."""
    high: float
    """A tenth took more."""
    rounds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One configuration."""

    model: str
    """As it was named."""
    precision: str
    """float32, fp16, int8: what the file says of itself."""
    device: str
    threads: int
    batch: int
    """Pictures at once; for a classifier or parser, chips."""
    input: tuple[int, int]
    """Width and height that the network saw, of the last picture."""
    network: Timing
    """The network alone, for the whole batch."""
    whole: Timing
    """From file to result, for the whole batch."""
    stages: Mapping[str, float]
    """Median milliseconds of each of :data:`STAGES`, for the whole batch."""
    pictures_per_second: float
    """Of the whole way, one batch after the other."""
    memory: float | None
    """Megabytes that a process needs for the model and one batch, beside what nnface needs without; None: unknown."""
    megabytes: float
    """The file's size."""


def bench(
    models: Sequence[str],
    pictures: Sequence[str],
    *,
    devices: Sequence[str] = ("cpu",),
    batches: Sequence[int] = (1,),
    threads: Sequence[int | None] = (None,),
    size: Size = None,
    rounds: int = 30,
    memory: bool = True,
    done: Callable[[], object] = lambda: None,
) -> list[Row]:
    """Measure every model on every device with every number of threads and every batch.

    Args:
        models: files or names of the zoo; several precisions of one network are several files.
        pictures: files, in turn; a batch is one of them so many times. Classifiers and parsers take them as portraits.
        devices: as ``--device`` takes them.
        batches: pictures at once.
        threads: of the network; None: the physical cores.
        size: the long side that detectors see; None: what each was made for.
        rounds: how often each configuration runs, after a warm-up.
        memory: measure that too, each in a process of its own.
        done: called after each round of all configurations, those of the warm-up too.

    Raises:
        ModelFileError, DeviceError, ImageError, UsageError: as the predictors raise them; or there is no picture.
    """
    if not pictures:
        raise UsageError("there is no picture to run on; bench takes picture files, no videos and no cameras")
    chains: dict[tuple[str, str, int, int], tuple[Predictor, list[dict[str, float]]]] = {}
    for model in models:
        for device in devices:
            for count in threads:
                number = count or physical_cores()
                predictor = _open(model, device, number, size)
                for batch in batches:
                    chains[model, device, number, batch] = (predictor, [])
    shapes: dict[tuple[str, str, int, int], tuple[int, int]] = {}
    for turn in range(-WARM_UP, rounds):
        picture = pictures[turn % len(pictures)]
        for key, (predictor, found) in chains.items():
            elapsed, shapes[key] = _pass(predictor, picture, key[3])
            if turn >= 0:
                found.append(elapsed)
        done()
    rows = []
    for (model, device, number, batch), (predictor, found) in chains.items():
        whole = timing([sum(times.values()) for times in found])
        path = resolve(model)
        rows.append(
            Row(
                model=model,
                precision=predictor.spec.provenance.get("precision", "float32"),
                device=device,
                threads=number,
                batch=batch,
                input=shapes[model, device, number, batch],
                network=timing([times["network"] for times in found]),
                whole=whole,
                stages={stage: 1000 * statistics.median(times[stage] for times in found) for stage in STAGES},
                pictures_per_second=1000 * batch / whole.median,
                memory=_memory(model, device, number, size, pictures[0], batch) if memory else None,
                megabytes=path.stat().st_size / 1e6,
            )
        )
    return rows


def alternate(
    calls: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, Timing]:
    """Time several things in turn, by any clock that gives seconds."""
    times: dict[str, Seconds] = {name: [] for name in calls}
    for turn in range(-WARM_UP, rounds):
        for name, call in calls.items():
            begin = clock()
            call()
            if turn >= 0:
                times[name].append(clock() - begin)
    return {name: timing(seconds) for name, seconds in times.items()}


def timing(seconds: Seconds) -> Timing:
    """Median and spread."""
    low, high = (1000 * float(v) for v in np.quantile(seconds, [0.1, 0.9]))
    return Timing(median=1000 * statistics.median(seconds), low=low, high=high, rounds=len(seconds))


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "processor": _processor(),
        "vnni": _has_vnni(),
        "cores": physical_cores(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "nnface": __version__,
    }


def tables(rows: Sequence[Row]) -> list[Table]:
    """For the terminal: the figures, and where the time goes; milliseconds of one picture."""
    figures, steps = [], []
    for row in rows:
        network = (row.network.median, row.network.low, row.network.high)
        middle, low, high = (f"{value / row.batch:.2f}" for value in network)
        name = [f"{row.model} {row.precision}", f"{row.device} x{row.threads}", str(row.batch)]
        memory = "-" if row.memory is None else f"{row.memory:.0f}"
        shape = f"{row.input[0]}x{row.input[1]}"
        figures.append([*name, shape, middle, f"{low}-{high}", f"{row.pictures_per_second:.1f}", memory])
        steps.append([*name, *(f"{row.stages[stage] / row.batch:.2f}" for stage in STAGES)])
    first = ["model", "on", "batch"]
    return [
        Table("Speed", [*first, "input", "network ms", "10-90 %", "pics/s", "MB"], figures),
        Table("Milliseconds of each step from file to result", [*first, *STAGES], steps),
    ]


def to_dict(rows: Sequence[Row]) -> dict[str, Any]:
    """The machine and all rows as JSON values."""
    return {"machine": machine(), "rows": [asdict(row) for row in rows]}


def sample_picture(folder: Path) -> Path:
    """A photograph's worth of pixels, 1024 x 768, as a JPEG in ``folder``; it shows no face."""
    noise = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
    path = folder / "sample.jpg"
    if not cv2.imwrite(str(path), cv2.resize(noise, (1024, 768), interpolation=cv2.INTER_CUBIC)):
        raise NnfaceError(f"cannot write {path}; name a picture with --pictures")
    return path


def _open(model: str, device: str, threads: int, size: Size) -> Predictor:
    path = resolve(model)
    task = read_spec(path).task
    if task == "detect":
        return Detector(path, device=device, threads=threads, size=size)
    return (Classifier if task == "classify" else Segmenter)(path, device=device, threads=threads)


def _pass(predictor: Predictor, path: str, batch: int) -> tuple[dict[str, float], tuple[int, int]]:
    """Seconds of each stage for a batch of one picture, and the width and height that the network saw."""
    watch = [time.perf_counter()]
    if isinstance(predictor, Detector):
        inputs = _detect(predictor, path, batch, watch)
    elif isinstance(predictor, Classifier):
        inputs = _classify(predictor, path, batch, watch)
    else:
        inputs = _segment(predictor, path, batch, watch)
    elapsed = {stage: end - begin for stage, begin, end in zip(STAGES, watch[:-1], watch[1:], strict=True)}
    return elapsed, (inputs.shape[3], inputs.shape[2])


def _detect(detector: Detector, path: str, batch: int, watch: Seconds) -> NDArray[np.float32]:
    side = detector.needed_side
    pictures = [read(path) if side is None else read_reduced(path, side) for _ in range(batch)]
    watch.append(time.perf_counter())
    prepared = [detector.prepare(picture) for picture in pictures]
    inputs = np.concatenate([item.input for item in prepared])
    watch.append(time.perf_counter())
    outputs = detector.runner.run(inputs)
    watch.append(time.perf_counter())
    for number, item in enumerate(prepared):
        detector.select({name: values[number] for name, values in outputs.items()}, item)
    watch.append(time.perf_counter())
    return inputs


def _classify(classifier: Classifier, path: str, batch: int, watch: Seconds) -> NDArray[np.float32]:
    pictures = [read(path) for _ in range(batch)]
    watch.append(time.perf_counter())
    inputs = classifier.prepare([classifier.whole_chip(picture) for picture in pictures])
    watch.append(time.perf_counter())
    runs = [classifier.runner.run(view) for view in viewed(inputs, classifier.views)]
    watch.append(time.perf_counter())
    for name in classifier.heads:
        softmax(np.mean([outputs[name] for outputs in runs], axis=0))
    watch.append(time.perf_counter())
    return inputs


def _segment(segmenter: Segmenter, path: str, batch: int, watch: Seconds) -> NDArray[np.float32]:
    pictures = [read(path) for _ in range(batch)]
    watch.append(time.perf_counter())
    chips = [next(segmenter.chips(picture, whole(picture))) for picture in pictures]
    inputs = segmenter.prepare([chip for _, _, chip in chips])
    watch.append(time.perf_counter())
    logits = segmenter.mean_logits(inputs)
    watch.append(time.perf_counter())
    for picture, (index, transform, _), values in zip(pictures, chips, logits, strict=True):
        canvas = Canvas(whole(picture), segmenter.numbers, segmenter.size, {})
        canvas.paint(index, transform, values)
        canvas.result()
    watch.append(time.perf_counter())
    return inputs


def _memory(model: str, device: str, threads: int, size: Size, picture: str, batch: int) -> float | None:
    """Megabytes, measured in a process that does nothing else."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_peak, model, device, threads, size, picture, batch).result()


def _peak(model: str, device: str, threads: int, size: Size, picture: str, batch: int) -> float:
    before = _resident()
    _pass(_open(model, device, threads, size), picture, batch)
    return _resident() - before


def _resident() -> float:
    """The most megabytes that this process has had in memory."""
    try:  # getrusage would tell what the process that started this one had
        status = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 1e3
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _has_vnni() -> bool | None:
    """Whether the processor multiplies 8-bit integers in groups (VNNI, or Arm's dot product); None: not known."""
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return None
    return bool(words & {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"})
