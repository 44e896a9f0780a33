"""What comes in, checked, and what is made of it: the parts that the page and the endpoints share."""

import sys
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from brain_xai.checkpoint.catalog import allowed_checkpoints, is_on_hub
from brain_xai.checkpoint.schema import CheckpointError
from brain_xai.classifier import Classifier
from brain_xai.explanation import Explanation, MethodNotApplicable, explain
from brain_xai.methods import METHODS
from brain_xai.overlay import draw_overlay
from brain_xai.preprocess import UnreadableImage, read_image
from brain_xai.ui import hub_follower, texts
from brain_xai.ui.jobs import Progress

# Of full colour, where nobody has chosen another.
OPACITY = 0.7

# An uploaded picture as gradio hands it over when its own decoder, which clips 16 bit and hides errors, is left out.
Upload = dict[str, Any] | None


class Refusal(gr.Error):
    """A sentence for the visitor, on the page and through the API; nothing that needs a stack trace in the log."""

    def __init__(self, sentence: str):
        super().__init__(sentence, print_exception=False)


def chosen_classifier(checkpoint: str, *, allow_fallback: bool = False) -> Classifier:
    """Return the classifier of an allowed checkpoint.

    With `allow_fallback` a bundled classifier may stand in for one that was never fetched from the Hub; its warnings
    then say so. Raises `Refusal`.
    """
    allowed = allowed_checkpoints()
    if checkpoint == "default":
        checkpoint = allowed[0]
    if checkpoint not in allowed:
        raise Refusal(texts.unknown_checkpoint(allowed))
    try:
        return hub_follower.classifier_of(checkpoint, allow_fallback)
    except CheckpointError as error:
        print(f"{checkpoint}: {error}", file=sys.stderr)  # for the maintainer; it may name folders
        # What is wrong with a checkpoint on the Hub is public; of this machine's folders nothing is told.
        reason = str(error) if is_on_hub(checkpoint) else ""
        raise Refusal(f"{texts.CHECKPOINT_UNAVAILABLE} {reason}".rstrip()) from error


def uploaded_scan(image: Upload) -> Image.Image:
    """Return the picture that was uploaded; raises `Refusal`."""
    path = (image or {}).get("path")
    if not path:
        raise Refusal(texts.NO_PICTURE)
    if not Path(path).is_file():
        raise Refusal(texts.PICTURE_EXPIRED)
    try:
        return read_image(path)
    except UnreadableImage as error:
        raise Refusal(str(error)) from error


def explained(
    classifier: Classifier, scan: Image.Image, method: str, target: str | int, progress: Progress | None = None
) -> Explanation:
    """Return the map of one method; raises `Refusal` and `MethodNotApplicable`."""
    if str(method) not in METHODS:
        raise Refusal(texts.unknown_method(list(METHODS)))
    try:
        return explain(classifier, scan, method, target, progress)
    except MethodNotApplicable:
        raise
    except ValueError as error:  # the target is no class of this checkpoint
        raise Refusal(str(error)) from error


def drawn(explanation: Explanation, opacity: float = OPACITY, outline: bool = False) -> Image.Image:
    """Return the overlay of a map."""
    return draw_overlay(explanation, opacity, outline)


def measured_quality(classifier: Classifier, method: str) -> dict | None:
    """Return how good the maps of a method are, as measured for this checkpoint; None where nobody has."""
    return classifier.explanations.get("methods", {}).get(method)
