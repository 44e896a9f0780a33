"""Brain XAI: classify brain-MRI slices and show what the answer rests on."""

from brain_xai.checkpoint import load_checkpoint

__all__ = ["load_checkpoint"]
