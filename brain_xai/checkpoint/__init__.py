"""The one checkpoint format, where checkpoints come from, and how they are loaded."""

from brain_xai.checkpoint.catalog import load_checkpoint
from brain_xai.checkpoint.folder import save_checkpoint
from brain_xai.checkpoint.schema import CheckpointError

__all__ = ["CheckpointError", "load_checkpoint", "save_checkpoint"]
