"""Take a study's answers away: a table, and the map as a volume that lies on the scan in any viewer."""

import csv
import gzip
import io

import numpy as np

from brain_xai.study.explain import Progress, StudyExplanation
from brain_xai.study.nifti import nibabel_formats

# A spreadsheet takes a cell that begins with one of these for a formula.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def table(explained: StudyExplanation) -> str:
    """Return the answers as CSV, one row per slice, in the order of the study.

    Columns: `slice` (from 1), `place` ("inside", "edge" or "outside" of the head), `x`, `y`, `z` (its center in
    millimeters, RAS+; empty if the files do not say), `label`, `p_<label>` for every class, `warnings` (codes),
    `checkpoint` and `revision`.
    """
    labels, output = explained.classifier.label_names, io.StringIO()
    writer = csv.writer(output, lineterminator="\r\n")
    positions = ("x", "y", "z")
    header = ["slice", "place", *positions, "label", *(f"p_{label}" for label in labels), "warnings", "checkpoint"]
    writer.writerow([_cell(name) for name in (*header, "revision")])
    for index, prediction in enumerate(explained.predictions):
        center = explained.study.center(index) if explained.study.volume.located else None
        row = [
            index + 1,
            explained.places[index].value,
            *(["", "", ""] if center is None else [f"{part:.2f}" for part in center]),
            _cell(prediction.label),
            *(f"{prediction.probabilities[label]:.6f}" for label in labels),
            _cell(" ".join(warning.code for warning in prediction.warnings)),
            _cell(prediction.checkpoint.id),
            _cell(prediction.checkpoint.revision),
        ]
        writer.writerow(row)
    return output.getvalue()


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


def _cell(value: object) -> str:
    """Return text that no spreadsheet takes for a formula."""
    text = str(value)
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text
