"""Every method that works on a model, side by side on one picture."""

from dataclasses import dataclass

from PIL import Image

from brain_xai.classifier import Classifier
from brain_xai.explanation import Explanation, MethodNotApplicable
from brain_xai.methods import METHODS
from brain_xai.ui.inputs import explained
from brain_xai.ui.jobs import Progress


@dataclass(frozen=True)
class Comparison:
    """The `explanations` of one picture for one class in the order of METHODS, and why the others do not apply."""

    explanations: list[Explanation]
    not_applicable: dict[str, str]


def compare(classifier: Classifier, scan: Image.Image, target: str | int, progress: Progress) -> Comparison:
    """Explain one class by every method; `progress` counts forward passes. Raises `Refusal`."""
    explanations, not_applicable = [], {}
    done, total = 0, sum(method.forward_passes for method in METHODS.values())
    for key, method in METHODS.items():

        def step(
            part: int, parts: int, preview: object = None, before: int = done, cost: int = method.forward_passes
        ) -> None:
            progress(before + cost * part // parts, total)

        try:
            explanations.append(explained(classifier, scan, key, target, step))
        except MethodNotApplicable as reason:
            not_applicable[key] = str(reason)
        done += method.forward_passes
        progress(done, total)
    return Comparison(explanations, not_applicable)
