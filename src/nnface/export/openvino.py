"""A model file as OpenVINO's own two files, NAME.xml and NAME.bin, with the Spec inside."""

import tempfile
from pathlib import Path

import openvino

from nnface.errors import NnfaceError, UsageError
from nnface.export.graph import as_onnx, compare, put
from nnface.files import sha256
from nnface.intermediate import WEIGHTS_KEY
from nnface.runtime.openvino import OpenvinoRunner
from nnface.spec import METADATA_KEY, Spec


def export(model: str | Path, out: str | Path) -> Spec:
    """Write a model file for OpenVINO; both files get their names only after they computed as ONNX Runtime does.

    Args:
        model: a model file of ours, ONNX or safetensors (which needs torch).
        out: the graph, ending in .xml; the weights lie beside it, ending in .bin.

    Raises:
        ModelFileError: ``model`` is no model file of ours.
        UsageError: ``out`` does not end in .xml.
        NnfaceError: ``out`` cannot be written, or OpenVINO computes something else.
    """
    out = Path(out)
    if out.suffix != ".xml":
        raise UsageError(f"{out} has to end in .xml, which OpenVINO goes by; the weights get the same name with .bin")
    if not out.parent.is_dir():
        raise NnfaceError(f"cannot write {out}: the folder {out.parent} does not exist; make it first")
    try:
        with tempfile.TemporaryDirectory(prefix=".openvino.", dir=out.parent) as folder:
            graph, weights = Path(folder) / "network.xml", Path(folder) / "network.bin"
            source, spec = as_onnx(model, Path(folder))
            network = openvino.Core().read_model(source.read_bytes())
            openvino.save_model(network, graph, compress_to_fp16=False)
            network = openvino.Core().read_model(graph)
            network.set_rt_info(spec.to_json(), METADATA_KEY)
            network.set_rt_info(sha256(weights), WEIGHTS_KEY)
            described = Path(folder) / "described.xml"
            openvino.save_model(network, described, compress_to_fp16=False)
            compare(OpenvinoRunner(described, threads=1).run, source, spec, str(out))
            # The weights first: a kill in between leaves a graph that refuses them.
            put(described.with_suffix(".bin"), out.with_suffix(".bin"))
            put(described, out)
    except OSError as error:
        raise NnfaceError(f"cannot write {out}: {error.strerror or error}") from error
    return spec
