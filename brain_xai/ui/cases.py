"""The images a visitor can click on: scans with a known truth that come with the checkpoints, else phantoms."""

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gradio.processing_utils import save_pil_to_cache
from gradio.utils import get_upload_folder

from brain_xai.checkpoint.catalog import examples_folder
from brain_xai.classifier import Classifier, Prediction
from brain_xai.ui.phantoms import phantoms

CASES_NAME = "cases.csv"
# The label of an image that no class fits: the right answer is a refusal.
NOT_A_BRAIN = "not_a_brain"
CORNERS = ("x_min", "y_min", "x_max", "y_max")
# What a model makes of a case. Without a known truth there is no verdict.
RIGHT, DOUBTFUL, WRONG, REFUSED = "right", "doubtful", "wrong", "refused"


@dataclass(frozen=True)
class Case:
    """One image with its story; the texts speak about the scan, so they are true for every model.

    Attributes:
        file: Path of the image.
        caption: What kind of scan it is, without giving the truth away.
        label: The true class, `NOT_A_BRAIN`, or "" where there is no truth to reveal.
        sequence: How the scan was made, such as "T1C"; "" if unknown.
        box: The tumor as (x_min, y_min, x_max, y_max) in fractions of width and height, None without one.
        credit: Source and license, to be shown with the image.
        lesson: What there is to see, to be shown after the visitor has guessed.
    """

    file: str
    caption: str
    label: str
    sequence: str = ""
    box: tuple[float, float, float, float] | None = None
    credit: str = ""
    lesson: str = ""


def cases_of(checkpoints: Iterable[str]) -> list[Case]:
    """Return the cases in the folders of `checkpoints`, each folder once; the phantoms if there are none."""
    folders = dict.fromkeys(filter(None, map(examples_folder, checkpoints)))
    cases = [case for folder in folders for case in read_cases(folder)]
    return cases or _phantoms()


def read_cases(folder: Path) -> list[Case]:
    """Return the cases that cases.csv of `folder` lists; a row that cannot be used is left out."""
    try:
        with (folder / CASES_NAME).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error):
        return []
    return [case for row in rows if (case := _read_row(folder, row)) is not None]


def verdict(case: Case, prediction: Prediction) -> str | None:
    """Return what the answer to a case is worth: right, doubtful, wrong or refused; None without a known truth."""
    codes = {warning.code for warning in prediction.warnings}
    known = (*prediction.probabilities, NOT_A_BRAIN)
    if case.label not in known:
        return None
    if "not_brain_mri" in codes:
        return REFUSED
    if prediction.label != case.label:
        return WRONG
    return DOUBTFUL if codes & {"unusual_scan", "low_margin", "evidence_against"} else RIGHT


def verdicts(classifier: Classifier, cases: Iterable[Case]) -> dict[str, str]:
    """Return {file: verdict} of the cases that have one, computed once for each model."""
    cases = tuple(cases)
    return classifier.facts.get(
        ("verdicts", cases),
        lambda: {case.file: found for case in cases if (found := verdict(case, classifier.predict(case.file)))},
    )


def _read_row(folder: Path, row: Mapping[str, str]) -> Case | None:
    """Return the case of a row; None if it names no file of `folder`, or its box is none."""
    texts = {name: row.get(name) or "" for name in ("caption", "label", "sequence", "credit", "lesson")}
    name, corners = row.get("file") or "", [row.get(corner) or "" for corner in CORNERS]
    if name != Path(name).name or not (folder / name).is_file():
        return None
    try:
        box = tuple(map(float, corners)) if any(corners) else None
    except ValueError:
        return None
    if box and not (
        all(math.isfinite(edge) and 0 <= edge <= 1 for edge in box) and box[0] < box[2] and box[1] < box[3]
    ):
        return None
    return Case(file=str(folder / name), box=box, **texts)


def _phantoms() -> list[Case]:
    folder = get_upload_folder()
    return [
        Case(file=save_pil_to_cache(image, folder, name=caption, format="png"), caption=caption, label="")
        for caption, image in phantoms()
    ]
