"""The version of Brain XAI, in a file of its own so that any file can name it."""

__version__ = "0.1.0"
