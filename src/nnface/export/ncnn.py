"""A model file for ncnn (phones and boards), through pnnx: NAME.param, NAME.bin, and the Spec as NAME.json.

ncnn's networks take one picture at a time, (3, height, width), as ``in0``; the outputs are ``out0``, ``out1``, ... in
the order that NAME.json says, without the batch's axis.
"""

import json
import shutil
import subprocess
import tempfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import ncnn
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from nnface.errors import DependencyError, NnfaceError, UsageError
from nnface.export.graph import as_onnx, compare, put, sides
from nnface.files import write_atomic
from nnface.runtime.promise import expected_outputs
from nnface.spec import Spec

MULTIPLE = 32
"""Of the input's free sides: then each level is exactly twice as large as the next, which ncnn takes for granted."""


def export(model: str | Path, out: str | Path) -> Spec:
    """Write a model file for ncnn; the files get their names only after they computed as ONNX Runtime does.

    Args:
        model: a model file of ours, ONNX or safetensors (which needs torch).
        out: the graph, ending in .param; weights and Spec lie beside it, ending in .bin and .json.

    Returns:
        the Spec as it is in the JSON: free sides are multiples of 32.

    Raises:
        ModelFileError: ``model`` is no model file of ours.
        UsageError: ``out`` does not end in .param.
        NnfaceError: ``out`` cannot be written, pnnx does not know the network, or ncnn computes something else.
    """
    out = Path(out)
    if out.suffix != ".param":
        raise UsageError(f"{out} has to end in .param; weights and Spec get the same name with .bin and .json")
    if not out.parent.is_dir():
        raise NnfaceError(f"cannot write {out}: the folder {out.parent} does not exist; make it first")
    try:
        with tempfile.TemporaryDirectory(prefix=".ncnn.", dir=out.parent) as folder:
            source, spec = as_onnx(model, Path(folder))
            if not spec.input.width:
                multiple = int(np.lcm(spec.input.multiple, MULTIPLE))
                spec = replace(spec, input=replace(spec.input, multiple=multiple))
            _convert(source, spec, Path(folder), str(model))
            graph, weights = Path(folder) / "network.param", Path(folder) / "network.bin"
            compare(_Network(graph, weights, spec).run, source, spec, str(out))
            # The graph last: with it the three are complete.
            put(weights, out.with_suffix(".bin"))
            about = {"outputs": list(expected_outputs(spec)), "nnface": json.loads(spec.to_json())}
            write_atomic(out.with_suffix(".json"), json.dumps(about, ensure_ascii=False, indent=1))
            put(graph, out)
    except OSError as error:
        raise NnfaceError(f"cannot write {out}: {error.strerror or error}") from error
    return spec


def _convert(source: Path, spec: Spec, folder: Path, model: str) -> None:
    proto = onnx.load(source, load_external_data=False)
    outputs = {value.name: value for value in proto.graph.output}
    del proto.graph.output[:]
    proto.graph.output.extend(outputs[name] for name in expected_outputs(spec))
    if not spec.input.width:
        _double(proto)
    onnx.save(proto, folder / "pruned.onnx")
    shapes = [f"[1,3,{height},{width}]f32" for height, width in sides(spec.input)]
    # In the folder, for it leaves files of its own where it runs.
    command = [_pnnx(), "pruned.onnx", "fp16=0", f"inputshape={shapes[0]}"]
    command += [f"inputshape2={shapes[1]}"] if len(shapes) > 1 else []
    command += ["ncnnparam=network.param", "ncnnbin=network.bin"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
    graph = folder / "network.param"
    if done.returncode or not graph.is_file():
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise NnfaceError(f"pnnx cannot convert {model} for ncnn: {last[:200]}")
    kinds = {line.split()[0] for line in graph.read_text("utf-8").splitlines()[2:]}
    if foreign := sorted(kind for kind in kinds if "." in kind):
        raise NnfaceError(f"{model} cannot be converted for ncnn, which has no {', '.join(foreign)}; use --to onnx")


def _pnnx() -> str:
    """The program in the package pnnx, whose Python part would import torch.

    Raises:
        DependencyError: it is not installed.
    """
    package = find_spec("pnnx")
    for folder in (package.submodule_search_locations or []) if package else []:
        if path := shutil.which("pnnx", path=folder):
            return path
    raise DependencyError("exporting for ncnn needs pnnx: pip install 'nnface[ncnn]'")


def _double(proto: onnx.ModelProto) -> None:
    """Let enlargements to the size of a finer level enlarge to twice the size, which needs no arithmetic on sizes."""
    for node in proto.graph.node:
        if node.op_type == "Resize" and len(node.input) == 4:
            node.input[2] = "nnface_double"
            node.input.pop()
    if any("nnface_double" in node.input for node in proto.graph.node):
        proto.graph.initializer.append(numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "nnface_double"))


class _Network:
    """What ncnn computes, in float32."""

    def __init__(self, graph: Path, weights: Path, spec: Spec) -> None:
        self.names = list(expected_outputs(spec))
        self.net = ncnn.Net()
        self.net.opt.num_threads = 1
        for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
            setattr(self.net.opt, option, False)
        if self.net.load_param(str(graph)) or self.net.load_model(str(weights)):
            raise NnfaceError(f"ncnn does not read what pnnx made of {spec.architecture}; use --to onnx")

    def run(self, batch: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        extractor = self.net.create_extractor()
        extractor.input("in0", ncnn.Mat(batch[0]).clone())
        found = [extractor.extract(f"out{number}") for number in range(len(self.names))]
        if any(code for code, _ in found):
            raise NnfaceError("ncnn cannot compute the network that pnnx made; use --to onnx")
        return {name: np.array(mat, np.float32)[None] for name, (_, mat) in zip(self.names, found, strict=True)}
