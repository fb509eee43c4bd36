"""The version, apart from the rest so that every module can read it."""

__version__ = "0.1.0"
