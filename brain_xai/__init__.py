"""Brain XAI: classify brain-MRI slices and show what the answer rests on."""

from brain_xai.checkpoint import load_checkpoint

# From here on `brain_xai.explain` is the function; the modules beside it are imported by their full names.
from brain_xai.explain import METHODS, MethodNotApplicable, explain

__all__ = ["METHODS", "MethodNotApplicable", "explain", "load_checkpoint"]
