"""ONNX Runtime beside OpenVINO on this CPU: python benchmarks/runtimes.py [MODEL ...]

One thread each, in turn, and the CPU time that the process takes for a batch, so that other work on the machine
disturbs little. For detectors one picture of 4:3 at the size that they were made for, for others eight chips.
"""

import sys
import time
from statistics import median

import numpy as np

from nnface.runtime import Runner, open_model
from nnface.zoo import resolve

ROUNDS = 40


def milliseconds(runner: Runner, batch: np.ndarray) -> float:
    start = time.process_time()
    runner.run(batch)
    return 1000 * (time.process_time() - start)


def main() -> None:
    print(f"{'model':12} {'input':>14} {'onnxruntime':>12} {'openvino':>9}   CPU milliseconds, medians of {ROUNDS}")
    for name in sys.argv[1:] or ["default", "fast", "attributes"]:
        runners = [open_model(resolve(name), device, 1) for device in ("cpu", "openvino")]
        plan = runners[0].spec.input
        shape = (8, 3, plan.height, plan.width) if plan.height else (1, 3, plan.size * 3 // 4, plan.size)
        batch = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        rounds = [[milliseconds(runner, batch) for runner in runners] for _ in range(ROUNDS + 5)][5:]
        one, other = (median(times) for times in zip(*rounds, strict=True))
        print(f"{name:12} {'x'.join(map(str, shape)):>14} {one:12.1f} {other:9.1f}")


if __name__ == "__main__":
    main()
