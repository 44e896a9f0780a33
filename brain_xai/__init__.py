"""Brain XAI: classify brain-MRI slices and show what the answer rests on."""

from brain_xai.checkpoint import CheckpointError, load_checkpoint
from brain_xai.classifier import Classifier, Prediction
from brain_xai.cover import cover
from brain_xai.explanation import Cancelled, Explanation, MethodNotApplicable, explain, explain_all
from brain_xai.framing import Framed, frame
from brain_xai.methods import METHODS
from brain_xai.overlay import draw_box, draw_overlay
from brain_xai.preprocess import UnreadableImage
from brain_xai.report import report_html
from brain_xai.study import Study, explain_study, read_study
from brain_xai.summary import Summary, summarize
from brain_xai.version import __version__

__all__ = [
    "METHODS",
    "Cancelled",
    "CheckpointError",
    "Classifier",
    "Explanation",
    "Framed",
    "MethodNotApplicable",
    "Prediction",
    "Study",
    "Summary",
    "UnreadableImage",
    "__version__",
    "cover",
    "draw_box",
    "draw_overlay",
    "explain",
    "explain_all",
    "explain_study",
    "frame",
    "load_checkpoint",
    "read_study",
    "report_html",
    "summarize",
]
