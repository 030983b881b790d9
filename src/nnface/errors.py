"""The errors that people see: each is one sentence that names the path and the remedy.

The command line prints the sentence on stderr and exits with 2 (or counts it, where it is one picture of many);
``--debug`` shows the traceback. Code that calls nnface catches :class:`NnfaceError`.
"""


class NnfaceError(Exception):
    """Anything that nnface refuses, in one sentence."""


class UsageError(NnfaceError):
    """A call whose arguments do not fit together."""


class ImageError(NnfaceError):
    """A picture or video that cannot be read or written."""


class ModelFileError(NnfaceError):
    """A model file that is absent, corrupt, foreign, of another task, or not to be trusted."""


class DataError(NnfaceError):
    """A data set, label file or prediction file that is absent or malformed."""


class DeviceError(NnfaceError):
    """A device or runtime that was asked for and is not there; nnface never falls back silently."""


class DependencyError(NnfaceError):
    """An optional dependency that is not installed; the sentence names the extra that brings it."""


class RecipeError(NnfaceError):
    """A recipe with an unknown key or an impossible value."""


class TrainingError(NnfaceError):
    """A training that cannot start or go on (a loss that is not finite, a run folder of another recipe)."""
