"""Tables, plots and self-contained HTML pages, for evaluation and curation alike."""

from importlib.util import find_spec

from nnface.errors import DependencyError


def require() -> None:
    """Before hours of work: is there what plots and pages are made with?

    Raises:
        DependencyError: matplotlib or jinja2 is not installed.
    """
    for name in ("matplotlib", "jinja2"):
        if find_spec(name) is None:
            raise DependencyError(f"a report needs {name}: pip install 'nnface[eval]'")
