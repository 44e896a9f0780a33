"""A volume as it was read: its values, and where each of them lies in the head."""

from dataclasses import dataclass

import numpy as np

from brain_xai.study.limits import MAX_SLICE_PIXELS, SLICE_TOO_LARGE_TEXT, too_large_text
from brain_xai.unreadable import UnreadableStudy

PLANES = ("sagittal", "coronal", "axial")
# The ends of the axis that crosses the slices of a plane, first slice first.
ENDS = {
    "sagittal": ("right", "left"),
    "coronal": ("back", "front"),
    "axial": ("bottom", "top"),
    "unknown": ("first", "last"),
}


@dataclass(frozen=True)
class Note:
    """Something that users must know about a study: a `code` for programs, a `message` for people."""

    code: str
    message: str


@dataclass(frozen=True, eq=False)
class Volume:
    """What a file says about a head.

    Attributes:
        values: Any numeric type [d0, d1, d2], in the index order of `affine`.
        affine: Float64 [4, 4]: voxel index to millimeters, the first axis toward the patient's right, the second to
            the front, the third to the top (RAS+, as in NIfTI).
        located: Whether the file says how the head lies; otherwise only the spacing in `affine` means anything.
        slice_axis: The axis along which the scanner took slices, None for a volume without one.
        windows: For each index of `slice_axis` the values shown black and white, None where the file names none.
        kind: "DICOM" or "NIfTI".
        notes: What users must know.
    """

    values: np.ndarray
    affine: np.ndarray
    located: bool
    slice_axis: int | None
    windows: tuple[tuple[float, float] | None, ...]
    kind: str
    notes: tuple[Note, ...] = ()


def check_size(shape: tuple[int, ...], item_bytes: int, max_bytes: int) -> None:
    """Refuse a volume [d0, d1, d2] before memory is taken for it; raises `UnreadableStudy`."""
    a, b, c = sorted(shape)
    if a < 1:
        raise UnreadableStudy("The file says that it holds no voxels. Export or download it again.")
    if b * c > MAX_SLICE_PIXELS:
        raise UnreadableStudy(SLICE_TOO_LARGE_TEXT)
    if a * b * c * item_bytes > max_bytes:
        raise UnreadableStudy(too_large_text(max_bytes))


def axes_in_head(affine: np.ndarray) -> tuple[tuple[int, int], ...]:
    """Return for each axis of a volume the axis of the head that it follows most, and the direction.

    Args:
        affine: As in `Volume`.

    Returns:
        (0 left-right, 1 back-front or 2 bottom-top; 1 or -1) per axis; every axis of the head occurs once.
    """
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    found: dict[int, tuple[int, int]] = {}
    left = np.abs(directions)
    for _ in range(3):
        row, column = np.unravel_index(int(left.argmax()), left.shape)
        found[int(column)] = (int(row), 1 if directions[row, column] > 0 else -1)
        left[row], left[:, column] = -1, -1
    return tuple(found[axis] for axis in range(3))


def is_usable(affine: np.ndarray) -> bool:
    """Tell whether an affine describes boxes of a size that can be: 0.01 to 100 mm, not flat."""
    if not np.isfinite(affine).all():
        return False
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not ((spacing > 0.01) & (spacing < 100)).all():
        return False
    return bool(abs(np.linalg.det(affine[:3, :3] / spacing)) > 0.1)
