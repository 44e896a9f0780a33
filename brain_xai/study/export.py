"""Take a study's answers away: rows, a table, the map as a volume that lies on the scan in any viewer, or all of it."""

import csv
import gzip
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from brain_xai.csv_cells import cell
from brain_xai.study.explain import Progress, StudyExplanation
from brain_xai.study.nifti import nibabel_formats
from brain_xai.study.report import report_html
from brain_xai.study.secondary_capture import to_dicom


def rows(explained: StudyExplanation) -> list[dict[str, Any]]:
    """Return the answers as one row per slice, in the order of the study, ready for `pandas.DataFrame`.

    Args:
        explained: The study.

    Returns:
        Rows with the same keys: `slice` (int, from 1), `place` ("inside", "edge" or "outside" of the head), `x`, `y`,
        `z` (float, its center in millimeters, RAS+; None if the files do not say), `label` (str), `p_<label>` (float,
        0 to 1) for every class, `warnings` (codes with spaces between them), `checkpoint` and `revision`.
    """
    study, made = explained.study, []
    for index, prediction in enumerate(explained.predictions):
        center = study.center(index) if study.volume.located else (None, None, None)
        made.append(
            {
                "slice": index + 1,
                "place": explained.places[index].value,
                **dict(zip("xyz", center, strict=True)),
                "label": prediction.label,
                **{f"p_{label}": prediction.probabilities[label] for label in explained.classifier.label_names},
                "warnings": " ".join(warning.code for warning in prediction.warnings),
                "checkpoint": prediction.checkpoint.id,
                "revision": prediction.checkpoint.revision,
            }
        )
    return made


def table(explained: StudyExplanation) -> str:
    """Return the `rows` of a study as CSV; cells that a spreadsheet would take for a formula begin with an apostrophe.

    Args:
        explained: The study.

    Returns:
        Text with a header; lines end as in RFC 4180.
    """
    found, output = rows(explained), io.StringIO()
    writer = csv.writer(output, lineterminator="\r\n")
    writer.writerow([cell(name) for name in found[0]])
    for row in found:
        writer.writerow([cell(_written(name, value)) for name, value in row.items()])
    return output.getvalue()


def save(explained: StudyExplanation, path: str | os.PathLike, progress: Progress | None = None) -> Path:
    """Save what a study gives, in the form that the ending of a path names.

    Args:
        explained: The study.
        path: Ends with .csv (`table`), .html (`report_html`), .nii.gz (`to_nifti`) or .dcm (`to_dicom`); its folder is
            made if it is missing.
        progress: For maps, see `to_nifti`.

    Returns:
        The path.

    Raises:
        ValueError: The ending is another one.
    """
    path = Path(path)
    forms: dict[str, Callable[[], bytes]] = {
        ".csv": lambda: table(explained).encode("utf-8-sig"),
        ".html": lambda: report_html(explained).encode(),
        ".nii.gz": lambda: to_nifti(explained, progress),
        ".dcm": lambda: to_dicom(explained, progress),
    }
    made = next((form for ending, form in forms.items() if path.name.lower().endswith(ending)), None)
    if made is None:
        raise ValueError(f"{path.name!r} does not end with one of: {', '.join(forms)}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(made())
    return path


def to_nifti(explained: StudyExplanation, progress: Progress | None = None) -> bytes:
    """Return the map of the whole study as a compressed NIfTI file, with nothing in it about the patient.

    Args:
        explained: The study.
        progress: As for `StudyExplanation.volume_map`.

    Returns:
        A .nii.gz file: float32 on the grid and with the affine of the volume, in the unit of the method; its range for
        display is that of the color bar.
    """
    nifti1, _ = nibabel_formats()
    volume = explained.study.volume
    image = nifti1.Nifti1Image(explained.volume_map(progress), volume.affine)
    code = 1 if volume.located else 0
    image.set_sform(volume.affine, code)
    image.set_qform(volume.affine, code)
    if not np.allclose(image.get_qform(), volume.affine, atol=1e-3):  # a quaternion cannot say that slices are sheared
        image.set_qform(None, 0)
    image.header.set_xyzt_units("mm")
    shown = explained.explanation(explained.ranking()[0])
    image.header["descrip"] = f"{explained.method} {explained.label}"[:79].encode("ascii", "replace")
    image.header["cal_max"], image.header["cal_min"] = shown.scale, -shown.scale if shown.signed else 0
    return gzip.compress(image.to_bytes(), compresslevel=4, mtime=0)


def _written(name: str, value: Any) -> str:
    """Return a value as text: probabilities with six decimals, millimeters with two."""
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.2f}" if name in ("x", "y", "z") else f"{value:.6f}"
