"""All methods side by side, one by one as they are ready, best measured first."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import gradio as gr
from gradio.processing_utils import save_pil_to_cache
from gradio.utils import get_upload_folder
from PIL import Image

from brain_xai.classifier import Classifier
from brain_xai.explanation import Cancelled, Explanation, explain
from brain_xai.methods import METHODS
from brain_xai.overlay import enlarged
from brain_xai.ui import pace, texts, wording
from brain_xai.ui.inputs import read_upload
from brain_xai.ui.jobs import LANE, BackgroundJob, Progress, Waiting
from brain_xai.ui.language import _
from brain_xai.ui.session import PageUpdate, Question
from brain_xai.ui.viewer import draw_map

TILE_SIDE = 360


@dataclass(frozen=True, eq=False)
class Comparison:
    """The maps of one class of one image by several methods, to be drawn in a job of their own."""

    classifier: Classifier
    image: Image.Image
    methods: tuple[str, ...]
    target: str
    stop_event: threading.Event

    def draw(self, progress: Progress) -> None:
        """Report each map as it is ready, and let others pass between two of them."""
        for done, method in enumerate(self.methods, 1):
            with pace.timed(self.classifier, method):
                explanation = explain(self.classifier, self.image, method, self.target, progress=self._check)
            progress(done, len(self.methods), explanation)
            LANE.give_way()

    def seconds(self, done: int = 0) -> float:
        """Return about how long the methods after the first `done` take."""
        return sum(pace.expected(self.classifier, method) for method in self.methods[done:])

    def _check(self, *_: object) -> None:
        if self.stop_event.is_set():
            raise Cancelled


def tiles(question: Question, classifier: Classifier, stop_event: threading.Event) -> Iterator[PageUpdate]:
    """Yield the maps of all methods that work on a model, each as soon as it is ready."""
    session, label = question.session, question.target or question.session.explanation.label
    scan = read_upload(session.image)
    comparison = Comparison(classifier, scan, ordered(classifier), label, stop_event)
    job = BackgroundJob(comparison.draw, stop_event, comparison.seconds())
    # The job writes to this one, also after the session is about another image and has a new one.
    maps = session.maps = {}
    # Each map has its place from the beginning: the scan, darkened, stands in for those that are not ready.
    scan = enlarged(scan.convert("RGB"))
    titles = [METHODS[method].title for method in comparison.methods]
    waiting = _saved(scan.point(lambda value: value // 5))
    images = [(_saved(scan), _(texts.THE_SCAN)), *((waiting, f"{title} …") for title in titles)]
    shown = {"label": texts.gallery_label(label), "visible": True}
    notes = _room(scan) + _left_out(classifier)
    yield PageUpdate(gallery=gr.update(value=list(images), **shown), gallery_notes=notes)
    for step in job:
        if isinstance(step, Waiting):
            yield PageUpdate(progress=texts.waiting(*step))
            continue
        explanation: Explanation = step.preview
        maps[explanation.method] = explanation
        images[step.done] = _saved(draw_map(question, explanation)), METHODS[explanation.method].title
        yield PageUpdate(
            gallery=gr.update(value=list(images), **shown),
            progress=texts.progress(step.done, step.total, comparison.seconds(step.done)),
        )
    job.result()
    warnings = classifier.disagreement_warnings(list(maps.values()))
    yield PageUpdate(gallery_notes=wording.warnings_html(warnings) + notes)


def ordered(classifier: Classifier) -> tuple[str, ...]:
    """Return the methods that work on a model, best measured first."""
    return tuple(key for _, key in wording.method_choices(classifier, dict.fromkeys(METHODS, 0.0)))


def _saved(image: Image.Image) -> str:
    """Save a tile where Gradio's files are deleted, once, because every further tile sends the list again."""
    image.thumbnail((TILE_SIDE, 2 * TILE_SIDE), Image.Resampling.LANCZOS)
    return save_pil_to_cache(image, get_upload_folder(), name="map", format="png")


def _room(scan: Image.Image) -> str:
    """Return a style sheet that keeps the place of the tiles while their images are loaded."""
    return f"<style>#gallery img {{ aspect-ratio: {scan.width} / {scan.height}; }}</style>"


def _left_out(classifier: Classifier) -> str:
    """Return which methods cannot work on the model, as HTML."""
    possible = wording.usable(classifier)
    missing = [method.title for key, method in METHODS.items() if key not in possible]
    return f'<p class="fine-print">{_(texts.LEFT_OUT, methods=", ".join(missing))}</p>' if missing else ""
