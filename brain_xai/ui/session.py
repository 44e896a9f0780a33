"""What one visitor sees and asks, and everything that an answer can change on the page."""

import threading
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import gradio as gr
import numpy as np

from brain_xai.explanation import Explanation
from brain_xai.ui.cases import Case
from brain_xai.ui.inputs import Upload

# The map that is drawn without being asked for, after the first upload.
FIRST_METHOD = "grad_cam"
OPACITY = 0.7


@dataclass(eq=False)
class Session:
    """What the server remembers of one visitor, in memory and only for minutes.

    Attributes:
        cases: The cases that can be chosen.
        image: The uploaded file, None before the first one.
        case: The case on show, None if the image is the visitor's own.
        guess: What the visitor has guessed about the case; None before that.
        explanation: The map on show.
        maps: The maps that were compared, by method.
        covered: What the visitor has covered, bool [H, W] of the original; None if nothing.
        accepted: Whether the visitor wants an answer for an image that is no brain MRI.
        running: Stops the work that is being done for this visitor.
        asked: The checkpoint, method and class that are on show or being computed. Gradio's dropdowns ask twice when
            something is chosen, and once when they are left as they were.
    """

    cases: tuple[Case, ...] = ()
    image: Upload = None
    case: Case | None = None
    guess: str | None = None
    explanation: Explanation | None = None
    maps: dict[str, Explanation] = field(default_factory=dict)
    covered: np.ndarray | None = None
    accepted: bool = False
    running: threading.Event | None = None
    asked: tuple[str, str, str | None] | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether there is an image without an answer: what the visitor asks came late, and is about another one."""
        return self.image is not None and self.explanation is None

    def show(self, image: Upload, case: Case | None = None) -> None:
        """Take another image in place of everything that belongs to the previous one."""
        self.stop()
        self.__init__(self.cases, image, case)

    def begin(self) -> threading.Event:
        """Stop the work that is being done, and return what stops the next."""
        self.stop()
        self.running = threading.Event()
        return self.running

    def stop(self) -> None:
        """Stop the work that is being done, if any."""
        if self.running:
            self.running.set()


@dataclass(frozen=True)
class Question:
    """What a visitor asks; the fields are named after components of the page."""

    session: Session
    checkpoint: str = "default"
    method: str = FIRST_METHOD
    target: str | None = None
    opacity: float = OPACITY
    outline: bool = False
    as_model: bool = False
    show_box: bool = False

    @property
    def wish(self) -> tuple[str, str, str | None]:
        """The checkpoint, method and class."""
        return self.checkpoint, self.method, self.target


class PageUpdate(NamedTuple):
    """Everything a handler can change; the fields are named after components of the page. By default nothing changes.

    Handlers return the session with every update, so that it is kept for another while.
    """

    session: Any = gr.skip()
    live: Any = gr.skip()
    notice: Any = gr.skip()
    warnings: Any = gr.skip()
    anyway: Any = gr.skip()
    result: Any = gr.skip()
    quiz: Any = gr.skip()
    guess: Any = gr.skip()
    answer: Any = gr.skip()
    sentence: Any = gr.skip()
    doubt: Any = gr.skip()
    target: Any = gr.skip()
    truth: Any = gr.skip()
    show_box: Any = gr.skip()
    scan: Any = gr.skip()
    covered: Any = gr.skip()
    uncover: Any = gr.skip()
    reasons: Any = gr.skip()
    overlay: Any = gr.skip()
    caption: Any = gr.skip()
    method: Any = gr.skip()
    progress: Any = gr.skip()
    cancel: Any = gr.skip()
    gallery: Any = gr.skip()
    gallery_notes: Any = gr.skip()
