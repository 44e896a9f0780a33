"""Checked inputs become an explanation or a comparison: what the page and the API share."""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from brain_xai.checkpoint.catalog import allowed_checkpoints, is_on_hub
from brain_xai.checkpoint.schema import CheckpointError
from brain_xai.classifier import Classifier
from brain_xai.explanation import Explanation, MethodNotApplicable, explain
from brain_xai.methods import METHODS
from brain_xai.preprocess import UnreadableImage, read_image
from brain_xai.ui import hub_follower, texts
from brain_xai.ui.batch import MAX_NAME_LENGTH, NamedFile
from brain_xai.ui.jobs import Progress

# An uploaded image as Gradio describes it without `preprocess`: its own decoder clips 16 bits and hides errors.
Upload = dict[str, Any] | None


class UserError(gr.Error):
    """A message for the user, on the page and through the API; it leaves no stack trace in the log."""

    def __init__(self, message: str):
        super().__init__(message, print_exception=False)


@dataclass(frozen=True)
class Comparison:
    """The `explanations` of one image for one class, in the order of METHODS, and why other methods do not apply."""

    explanations: list[Explanation]
    not_applicable: dict[str, str]


def get_classifier(checkpoint: str, *, allow_fallback: bool = False) -> Classifier:
    """Return the classifier of a checkpoint that visitors may choose.

    Args:
        checkpoint: One of `allowed_checkpoints()`, or "default" for the first of them.
        allow_fallback: Whether a bundled checkpoint may answer, with a warning, for one that was never downloaded.

    Returns:
        The classifier.

    Raises:
        UserError: The id is not allowed, or the checkpoint cannot be loaded.
    """
    allowed = allowed_checkpoints()
    if checkpoint == "default":
        checkpoint = allowed[0]
    if checkpoint not in allowed:
        raise UserError(texts.unknown_checkpoint(allowed))
    try:
        return hub_follower.classifier_of(checkpoint, allow_fallback)
    except CheckpointError as error:
        print(f"{checkpoint}: {error}", file=sys.stderr)  # for the maintainer; it may name folders
        # What is wrong with a checkpoint on the Hub is public, but never show paths of this machine.
        public = is_on_hub(checkpoint)
        raise UserError(texts.checkpoint_unavailable(str(error)) if public else texts.CHECKPOINT_UNAVAILABLE) from error


def read_upload(image: Upload) -> Image.Image:
    """Return an uploaded image as `read_image` does; raises `UserError`."""
    path = (image or {}).get("path")
    if not path:
        raise UserError(texts.NO_IMAGE)
    if not Path(path).is_file():
        raise UserError(texts.IMAGE_EXPIRED)
    try:
        return read_image(path)
    except UnreadableImage as error:
        raise UserError(str(error)) from error


def read_uploads(files: Sequence[Upload] | None) -> list[NamedFile]:
    """Return uploaded files with the names they were given; raises `UserError`."""
    named = []
    for file in files or ():
        path = Path((file or {}).get("path") or "")
        if not path.is_file():
            raise UserError(texts.IMAGE_EXPIRED)
        named.append(NamedFile(str(file.get("orig_name") or path.name)[:MAX_NAME_LENGTH], path))
    return named


def read_target(labels: Sequence[str], target: Any) -> Any:
    """Return a class as `explain` knows it: labels may be spelled differently ("no tumour"), numbers may be text."""
    if isinstance(target, float) and target.is_integer():
        return int(target)
    if not isinstance(target, str) or target in labels:
        return target
    if target.strip().isdecimal():
        return int(target)
    meant = [label for label in ("predicted", *labels) if _spelling(label) == _spelling(target)]
    return meant[0] if len(meant) == 1 else target  # "grade +" and "grade -" differ in what is left out


def explain_or_refuse(
    classifier: Classifier,
    image: Image.Image,
    method: str,
    target: str | int,
    progress: Progress | None = None,
    **settings: Any,
) -> Explanation:
    """Return the map of one method; raises `UserError` and `MethodNotApplicable`."""
    if str(method) not in METHODS:
        raise UserError(texts.unknown_method(list(METHODS)))
    try:
        target = read_target(classifier.label_names, target)
        return explain(classifier, image, method, target, progress=progress, **settings)
    except MethodNotApplicable:
        raise
    except ValueError as error:  # the target is not a class of this checkpoint, or a setting is out of range
        raise UserError(str(error)) from error


def compare_methods(classifier: Classifier, image: Image.Image, target: str | int, progress: Progress) -> Comparison:
    """Explain one class by every method; `progress` counts forward passes. Raises `UserError`."""
    explanations, not_applicable = [], {}
    done, total = 0, sum(method.forward_passes for method in METHODS.values())
    for key, method in METHODS.items():

        def step(
            part: int, parts: int, preview: object = None, before: int = done, cost: int = method.forward_passes
        ) -> None:
            progress(before + cost * part // parts, total)

        try:
            explanations.append(explain_or_refuse(classifier, image, key, target, step))
        except MethodNotApplicable as reason:
            not_applicable[key] = str(reason)
        done += method.forward_passes
        progress(done, total)
    return Comparison(explanations, not_applicable)


def measured_quality(classifier: Classifier, method: str) -> dict | None:
    """Return how good the maps of a method are, as measured for this checkpoint; None if nobody has measured it."""
    return classifier.explanations.get("methods", {}).get(method)


def _spelling(label: str) -> str:
    """Return a label without what people spell differently."""
    return re.sub(r"[\W_]+", "", label).casefold().replace("tumour", "tumor")
