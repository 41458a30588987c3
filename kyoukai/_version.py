"""The version, in a module that imports nothing, so that packaging tools can read it."""

__version__ = "3.0.0"
