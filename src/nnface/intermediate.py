"""What an OpenVINO model of ours says of itself: two values in its XML, read bounded and without OpenVINO.

``nnface export --to openvino`` writes NAME.xml, the graph, and NAME.bin, the weights. Under ``rt_info`` the XML has the
Spec (``nnface``) and the SHA-256 of the weights (``nnface_weights``), so that no other pair is ever run.
"""

from xml.parsers import expat

from nnface.errors import ModelFileError

WEIGHTS_KEY = "nnface_weights"
MAX_DEPTH = 64
MAX_XML = 64 << 20


class _RefusedError(Exception):
    """A document type, which could define entities, or too deep."""


def begins_as_xml(start: bytes) -> bool:
    """Whether a file's first bytes are those of an OpenVINO graph."""
    return start.startswith((b"<?xml", b"<net "))


def metadata(content: bytes, origin: str, spec_key: str) -> tuple[str, str]:
    """The Spec's JSON and the SHA-256 of the weights.

    Raises:
        ModelFileError: no XML, not OpenVINO's, without our values, or with a document type.
    """
    path: list[str] = []
    found: dict[str, str] = {}

    def begin(name: str, attributes: dict[str, str]) -> None:
        path.append(name)
        if len(path) > MAX_DEPTH:
            raise _RefusedError
        if path[:-1] == ["net", "rt_info"] and name in (spec_key, WEIGHTS_KEY):
            found[name] = attributes.get("value", "")

    def end(name: str) -> None:
        path.pop()

    def refuse(*_: object) -> None:
        raise _RefusedError

    parser = expat.ParserCreate("utf-8")  # whatever the file says
    parser.StartElementHandler, parser.EndElementHandler = begin, end
    parser.StartDoctypeDeclHandler = refuse
    try:
        if len(content) > MAX_XML:
            raise _RefusedError
        parser.Parse(content, True)
    except (expat.ExpatError, _RefusedError, ValueError) as error:
        raise ModelFileError(f"{origin} is not an OpenVINO model, or is damaged") from error
    if not found.get(spec_key) or WEIGHTS_KEY not in found:
        raise ModelFileError(
            f"{origin} is an OpenVINO model without nnface metadata, so what its outputs mean is not known; "
            "use one that nnface export --to openvino wrote"
        )
    return found[spec_key], found[WEIGHTS_KEY]
