"""Brain XAI: classify brain-MRI slices and show what the answer rests on."""

from brain_xai.checkpoint.catalog import load_checkpoint
from brain_xai.explanation import MethodNotApplicable, explain

# From here on `brain_xai.explain` is the function; the modules beside it are imported by their full names.
from brain_xai.methods import METHODS

__all__ = ["METHODS", "MethodNotApplicable", "explain", "load_checkpoint"]
