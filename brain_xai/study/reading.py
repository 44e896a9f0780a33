"""`read_study`: files, folders or an archive become one study. `read_slice`: a file of one slice becomes an image."""

import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from brain_xai.study.dicom import read_dicom
from brain_xai.study.limits import MAX_VOLUME_BYTES
from brain_xai.study.nifti import read_nifti
from brain_xai.study.sources import kind_of, opened
from brain_xai.study.study import Study, cut
from brain_xai.unreadable import UnreadableStudy

Paths = str | os.PathLike | Sequence[str | os.PathLike]


def read_study(
    paths: Paths,
    *,
    plane: str | None = None,
    series: int | None = None,
    volume: int | None = None,
    max_bytes: int = MAX_VOLUME_BYTES,
) -> Study:
    """Read the slices of one DICOM series or one NIfTI volume.

    Nothing but values, geometry and how to show them is kept of the files. Needs `pip install brain-xai[medical]`.

    Args:
        paths: One or several files, folders or ZIP archives: DICOM (one or more frames per file, with or without
            compression) or NIfTI (.nii, .nii.gz). Their names do not matter.
        plane: "axial", "coronal" or "sagittal"; None for the plane that the scanner took, or axial if it took a volume.
        series: Which of several DICOM series, from 1, as `SeveralSeries` numbers them.
        volume: Which volume of a four-dimensional NIfTI file, from 0.
        max_bytes: How much memory the volume may take; one that needs more is refused before its values are read.

    Returns:
        The study: slices sorted by where they lie, in radiological display.

    Raises:
        SeveralSeries: There are several series, and none was chosen.
        UnreadableStudy: The files are damaged, too large, or something else; the message says what to do.
        ValueError: The plane does not exist.
    """
    one = isinstance(paths, str | os.PathLike)
    with opened([paths] if one else list(paths)) as sources:
        dicom = [source for source in sources if source.kind == "DICOM"]
        nifti = [source for source in sources if source.kind == "NIfTI"]
        if dicom and nifti:
            raise UnreadableStudy("There are DICOM and NIfTI files. Choose either a DICOM series or one NIfTI file.")
        if len(nifti) > 1:
            raise UnreadableStudy(f"There are {len(nifti)} NIfTI files. Choose one.")
        if nifti:
            return cut(read_nifti(nifti[0].open, volume, max_bytes), plane)
        if dicom:
            return cut(read_dicom(dicom, series, max_bytes), plane)
    raise UnreadableStudy(
        "There is no DICOM or NIfTI file. Choose the files of one series, a ZIP of them, or a .nii.gz."
    )


def read_slice(path: str | os.PathLike) -> Image.Image:
    """Return the only slice of a DICOM or NIfTI file as an image, gray ("L"); raises `UnreadableStudy`."""
    study = read_study(path)
    if len(study) > 1:
        raise UnreadableStudy(
            f"This {study.kind} file holds {len(study)} slices. Open it as a study, or save one slice as PNG."
        )
    return study.image(0)


def is_medical(path: str | os.PathLike) -> bool:
    """Tell whether a file is DICOM or NIfTI, by its content."""
    return kind_of(lambda: Path(path).open("rb")) in ("DICOM", "NIfTI")
