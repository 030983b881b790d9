"""The version of the package: read by the build, printed by ``nnface --version``."""

__version__ = "0.1.0"
