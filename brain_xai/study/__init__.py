"""From slice to study: read DICOM and NIfTI, explain every slice, take the result away."""

from brain_xai.study.explain import StudyExplanation, explain_study
from brain_xai.study.export import rows, save, table, to_nifti
from brain_xai.study.reading import read_study
from brain_xai.study.report import report_html
from brain_xai.study.secondary_capture import to_dicom
from brain_xai.study.strip import strip_html
from brain_xai.study.study import Study
from brain_xai.unreadable import SeveralSeries, UnreadableStudy

__all__ = [
    "SeveralSeries",
    "Study",
    "StudyExplanation",
    "UnreadableStudy",
    "explain_study",
    "read_study",
    "report_html",
    "rows",
    "save",
    "strip_html",
    "table",
    "to_dicom",
    "to_nifti",
]
