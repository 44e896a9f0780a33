"""Uploaded files become an explained study: what the page and the API share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder

from brain_xai.classifier import Classifier
from brain_xai.explanation import MethodNotApplicable
from brain_xai.preprocess import UnreadableImage
from brain_xai.study import (
    Study,
    StudyExplanation,
    explain_study,
    read_study,
    report_html,
    table,
    to_dicom,
    to_nifti,
)
from brain_xai.ui.inputs import UserError
from brain_xai.ui.language import translated
from brain_xai.ui.monitoring.monitor import count_answer

# A study of the page lies in the memory of the server; a scan of the head has about 30 MB.
MAX_VOLUME_BYTES = 160 * 2**20
NO_FILES = "There are no files yet. Choose the DICOM files of one series, a ZIP of them, or a NIfTI file."
EXPIRED = "The files are deleted already. Choose them again."


@dataclass(frozen=True)
class Choice:
    """Which part of the files is meant; None where the files leave no choice."""

    plane: str | None = None
    series: int | None = None
    volume: int | None = None

    def __post_init__(self):
        """Raise `UserError` for anything but words and whole numbers, which callers may send."""
        object.__setattr__(self, "plane", None if self.plane is None else str(self.plane))
        for name in ("series", "volume"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                raise UserError(f"{name} must be a whole number, or null.")


def read_uploaded_study(files: Sequence[dict[str, Any]] | None, choice: Choice) -> Study:
    """Return the study of uploaded files; raises `UnreadableImage`, such as `SeveralSeries`, and `UserError`."""
    paths = [Path(str(file.get("path"))) for file in files or [] if isinstance(file, dict) and file.get("path")]
    if not paths:
        raise UserError(NO_FILES)
    if not all(path.is_file() for path in paths):
        raise UserError(EXPIRED)
    return read_study(paths, plane=choice.plane, series=choice.series, volume=choice.volume, max_bytes=MAX_VOLUME_BYTES)


def explain_uploaded_study(
    classifier: Classifier,
    study: Study,
    method: str,
    target: str | int,
    progress: Callable[[int, int], object] | None = None,
) -> StudyExplanation:
    """Return the answers for all slices; raises `UserError`."""
    try:
        explained = explain_study(classifier, study, method, target, progress=progress)
    except (UnreadableImage, MethodNotApplicable, ValueError) as error:
        raise UserError(str(error)) from error
    for prediction in explained.predictions:
        count_answer(prediction)
    return explained


def save_table(explained: StudyExplanation) -> str:
    """Save the table of a study for download and return its path."""
    return _save(table(explained).encode("utf-8-sig"), "study_slices.csv")


def save_report(explained: StudyExplanation) -> str:
    """Save the report of a study, in the visitor's language, for download and return its path."""
    return _save(report_html(explained, translate=translated).encode(), "study_report.html")


def save_map(explained: StudyExplanation, progress: Callable[[int, int], object] | None = None) -> str:
    """Save the map of a study as NIfTI for download and return its path."""
    return _save(to_nifti(explained, progress), _map_name(explained, "nii.gz"))


def save_dicom(explained: StudyExplanation, progress: Callable[[int, int], object] | None = None) -> str:
    """Save the drawn maps of a study as DICOM for download and return its path."""
    return _save(to_dicom(explained, progress), _map_name(explained, "dcm"))


def _map_name(explained: StudyExplanation, ending: str) -> str:
    name = f"study_{explained.method}_{explained.label}.{ending}"
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in name)


def _save(content: bytes, name: str) -> str:
    """Save a file in Gradio's own folder, because only files there are deleted."""
    return save_bytes_to_cache(content, name, get_upload_folder())
