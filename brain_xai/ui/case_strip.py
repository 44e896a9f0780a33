"""The strip of cases above the page: small images to click, and what is shown once the visitor has guessed."""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from html import escape
from pathlib import Path

import gradio as gr
from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder
from PIL import Image

from brain_xai.classifier import Prediction
from brain_xai.ui import texts
from brain_xai.ui.cases import DOUBTFUL, NOT_A_BRAIN, REFUSED, RIGHT, WRONG, Case, cases_of, verdict
from brain_xai.ui.language import _

THUMBNAIL_SIDE = 80  # pixels; the style sheet shows them smaller once there is an answer
BOX_COLOR = (255, 221, 51)
LICENSES = {
    "CC BY 4.0": "https://creativecommons.org/licenses/by/4.0/",
    "CC BY 3.0": "https://creativecommons.org/licenses/by/3.0/",
    "CC BY-SA 3.0": "https://creativecommons.org/licenses/by-sa/3.0/",
}
DOI = re.compile(r"doi (10\.\d+/[\w./-]+\w)")
# Delegated, because the buttons are replaced when the verdicts of a model are shown.
ON_LOAD = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-case]");
  if (!button) return;
  document.querySelector("#image .prose").classList.add("asked");
  for (const other of element.querySelectorAll("button[data-case]")) other.ariaPressed = other === button;
  trigger("click", { index: Number(button.dataset.case) });
});
"""
CSS = """
.cases { display: flex; gap: 8px; width: max-content; padding: 3px 0; }
.cases button {
  flex: none; width: calc(var(--thumbnail) + 8px); min-width: 100px;
  padding: 3px; border: 1px solid var(--border-color-primary); border-radius: 6px;
  background: var(--block-background-fill); color: var(--body-text-color); font-size: 13px; line-height: 18px;
  cursor: pointer; scroll-snap-align: start;
}
.cases button:hover, .cases button[aria-pressed="true"] { border-color: var(--body-text-color); }
.cases button:focus-visible { outline: 3px solid var(--color-accent); outline-offset: -3px; }
.cases img { display: block; width: var(--thumbnail); height: var(--thumbnail);
  margin: 0 auto 2px; border-radius: 3px; background: #000; }
.cases .kind { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
.cases .verdict { display: block; min-height: 18px; }
"""


@dataclass(frozen=True)
class CaseStrip:
    """The component, whose `click` tells the `index` of a case, and its cases, with files that the page may serve."""

    component: gr.HTML
    cases: list[Case]

    def chosen(self, event: gr.EventData) -> Case | None:
        """Return the case of a click, None for a click that names none."""
        index = getattr(event, "index", None)
        return self.cases[index] if isinstance(index, int) and 0 <= index < len(self.cases) else None


def cases_strip(checkpoints: Sequence[str]) -> CaseStrip:
    """Add the strip of the cases of `checkpoints` to the page; their files stay while the page does."""
    cases = served_cases(checkpoints)
    component = gr.HTML(strip_html(cases), css_template=CSS, js_on_load=ON_LOAD, padding=False, elem_id="cases")
    component.keep_in_cache.update(case.file for case in cases)
    return CaseStrip(component, cases)


def served_cases(checkpoints: Sequence[str]) -> list[Case]:
    """Return the cases of `checkpoints` with files that may be served, whose names do not tell the truth about a case.

    Gradio names a folder after the content of a file, so a second call returns the same files.
    """
    folder = get_upload_folder()
    cases = []
    for number, case in enumerate(cases_of(checkpoints), start=1):
        file = Path(case.file)
        copy = save_bytes_to_cache(file.read_bytes(), f"case-{number}{file.suffix}", folder)
        cases.append(replace(case, file=copy))
    return cases


def strip_html(cases: Sequence[Case], verdicts: Mapping[str, str] | None = None, chosen: Case | None = None) -> str:
    """Return the buttons of the strip, with what the served model makes of each case, by file, if that is known."""
    buttons = "".join(
        _button(index, case, (verdicts or {}).get(case.file), case == chosen) for index, case in enumerate(cases)
    )
    return f'<div class="cases" role="group" aria-label="{escape(_("Cases"))}">{buttons}</div>'


def verdict_text(found: str | None) -> str:
    """Return a verdict in a word or two, "" for none."""
    known = {
        RIGHT: _("model right"),
        DOUBTFUL: _("model unsure"),
        WRONG: _("model wrong"),
        REFUSED: _("refused"),
    }
    return known.get(found, "")


def truth_html(case: Case, prediction: Prediction | None = None, guess: str | None = None) -> str:
    """Return what a case shows: the truth, beside the visitor's guess and the model's answer, the lesson, the credit.

    Args:
        case: The case; one without a truth only shows its credit.
        prediction: The answer of the served model.
        guess: The label that the visitor chose, None if there was no guess.
    """
    sentences = [_truth(case)]
    if guess and case.label:
        sentences.append(_("You were right.") if guess == case.label else _("You were not."))
    sentences.append(_about_answer(case, prediction))
    first = " ".join(filter(None, sentences))
    lines = [f"<p><strong>{escape(first)}</strong></p>" if first else ""]
    lines.append(f"<p>{escape(_(case.lesson))}</p>" if case.lesson else "")
    return f'<div class="case-truth" role="status">{"".join(lines)}{credit_html(case)}</div>'


def credit_html(case: Case) -> str:
    """Return the credit line of a case, with links to its source and license; "" without one."""
    if not case.credit:
        return ""
    credit = DOI.sub(r'<a href="https://doi.org/\1">doi \1</a>', escape(case.credit))
    for name, address in LICENSES.items():
        credit = re.sub(rf"{re.escape(name)}(?![\w.-])", f'<a href="{address}">{name}</a>', credit)
    return f'<p class="fine-print">{escape(_("Image"))}: {credit}</p>'


def _truth(case: Case) -> str:
    if case.label == NOT_A_BRAIN:
        return _("This is not a brain scan.")
    if not case.label:
        return ""
    if not texts.is_tumor(case.label):
        return _("The truth: no tumor.")
    return _("The truth: {label}.", label=texts.label_text(case.label))


def _about_answer(case: Case, prediction: Prediction | None) -> str:
    found = verdict(case, prediction) if prediction else None
    if found is None:
        return ""
    if found == REFUSED:
        refused = {True: _("The model refused it, as it should."), False: _("The model took it for no brain scan.")}
        return refused[case.label == NOT_A_BRAIN]
    sentences = {
        RIGHT: _("The model was right."),
        DOUBTFUL: _("The model was right, but unsure."),
        WRONG: _("The model was wrong."),
    }
    return sentences[found]


def _button(index: int, case: Case, found: str | None, is_chosen: bool) -> str:
    kind = _("Case {number}: {caption}.", number=index + 1, caption=_(case.caption))
    return (
        f'<button type="button" data-case="{index}" aria-pressed="{str(is_chosen).lower()}" '
        f'title="{escape(_(case.caption))}">'
        f'<img src="{_thumbnail(case.file)}" alt="" width="{THUMBNAIL_SIDE}" height="{THUMBNAIL_SIDE}">'
        f'<span class="kind">{escape(kind)} </span><span class="verdict">{escape(verdict_text(found))}</span></button>'
    )


@cache  # the strip is sent again whenever a case was answered
def _thumbnail(file: str) -> str:
    """Return a small square version of an image as a data URL, so that the strip costs no further request."""
    with Image.open(file) as image:
        small = image.convert("RGB")
        small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
    square = Image.new("RGB", (THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    square.paste(small, ((THUMBNAIL_SIDE - small.width) // 2, (THUMBNAIL_SIDE - small.height) // 2))
    buffer = io.BytesIO()
    square.save(buffer, "WEBP", quality=60)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
