"""Does TensorRT give the same faces here? python tools/check_tensorrt.py on a machine with an NVIDIA GPU.

Builds engines of the bundled models in fp32 and fp16 (and of the INT8 files that are named), asks which precisions
their layers have, runs them through the ordinary predictors beside ONNX Runtime on the CPU, and prints a verdict. Exit
code: 0 all agree, 1 something does not, 2 not run.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from nnface import Classifier, Detector, zoo
from nnface.errors import DependencyError, DeviceError, NnfaceError
from nnface.export.tensorrt import Precision, export
from nnface.runtime import open_model
from nnface.runtime.tensorrt import gpu, modules

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
PHOTOGRAPHS = [EXAMPLES / name for name in ("astronaut.jpg", "grace_hopper.jpg", "nasa_sts106_crew.jpg")]
PIXELS = {"fp32": 0.5, "fp16": 2.0, "int8": 4.0}
"""How far a corner may lie from ONNX Runtime's."""
SHARES = {"fp32": 0.005, "fp16": 0.02, "int8": 0.1}
"""How far a score or probability may."""


def detections(model: Path, engine: Path, precision: str) -> str:
    """Compare the faces of the photographs, in one batch; "" where they agree."""
    one, other = Detector(model), Detector(engine, device="tensorrt")
    for path, expected, found in zip(PHOTOGRAPHS, one.batch(PHOTOGRAPHS), other.batch(PHOTOGRAPHS), strict=True):
        sure = [face for face in expected if face.score > one.min_score + SHARES[precision]]
        for face in sure:
            near = [f for f in found if np.abs(f.box - face.box).max() < PIXELS[precision]]
            if not any(abs(f.score - face.score) < SHARES[precision] for f in near):
                return f"{path.name}: the face at {face.box.round().tolist()} is not found"
        if len(found) > len(expected) + 1:
            return f"{path.name}: {len(found)} faces instead of {len(expected)}"
    return ""


def answers(model: Path, engine: Path, precision: str) -> str:
    """Compare the probabilities of random chips; "" where they agree."""
    chips = list(np.random.default_rng(0).integers(0, 256, (5, 128, 128, 3), np.uint8))
    one, other = Classifier(model).batch(chips), Classifier(engine, device="tensorrt").batch(chips)
    worst = max(
        abs(share - right[0].attributes[head].probabilities[label])
        for left, right in zip(one, other, strict=True)
        for head, answer in left[0].attributes.items()
        for label, share in answer.probabilities.items()
    )
    return "" if worst < SHARES[precision] else f"a probability differs by {worst:.3f}"


def milliseconds(model: Path, device: str, count: int = 50) -> float:
    """The median of a batch of four at the usual size."""
    runner = open_model(model, device)
    plan = runner.spec.input
    height, width = (plan.height, plan.width) if plan.height and plan.width else (plan.size * 3 // 4, plan.size)
    batch = np.random.default_rng(0).normal(size=(4, 3, height, width)).astype(np.float32)
    times = []
    for _ in range(count):
        start = time.perf_counter()
        runner.run(batch)
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[count // 5 :])


def main() -> int:
    """Run every check and print a verdict."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", help="further ONNX files of ours, such as those in INT8")
    parsed = parser.parse_args()
    try:
        trt, cuda = modules()
        name, capability = gpu(cuda, 0)
    except (DependencyError, DeviceError) as error:
        print(f"NOT RUN: {error}")
        return 2
    print(f"TensorRT {trt.__version__} on {name} ({capability})")
    jobs: list[tuple[Path, Precision | None]] = []
    for bundled in ("default", "fast", "attributes"):
        jobs += [(zoo.resolve(bundled), precision) for precision in ("fp32", "fp16")]
    jobs += [(Path(model), None) for model in parsed.models]
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for number, (model, precision) in enumerate(jobs):
            engine = Path(folder) / f"{number}.engine"
            try:
                spec, built = export(model, engine, precision=precision)
                compare = {"detect": detections, "classify": answers}.get(spec.task)
                problem = compare(model, engine, built.precision) if compare else ""
                layers = ", ".join(f"{count} {kind}" for kind, count in built.layers.items())
                here, there = milliseconds(engine, "tensorrt"), milliseconds(model, "cpu", 10)
                times = f"{here:.2f} ms on the GPU, {there:.1f} ms on the CPU"
                print(f"{model.stem} {built.precision}: {problem or 'agrees'}; layers {layers}; {times}")
            except NnfaceError as error:
                problem = str(error)
                print(f"{model.stem} {precision}: {problem}")
            failed += bool(problem)
    print(f"VERDICT: {'all agree' if not failed else f'{failed} of {len(jobs)} do not agree'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
