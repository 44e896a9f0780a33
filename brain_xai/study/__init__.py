"""From slice to study: read DICOM and NIfTI, explain every slice, take the result away."""

from brain_xai.study.reading import read_study
from brain_xai.study.study import Study
from brain_xai.unreadable import SeveralSeries, UnreadableStudy

__all__ = ["SeveralSeries", "Study", "UnreadableStudy", "read_study"]
