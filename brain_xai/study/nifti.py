"""Read a NIfTI file, at most as far as its header says and the limits allow."""

import gzip
import io
import zlib
from collections.abc import Callable
from contextlib import contextmanager
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np

from brain_xai.study.limits import DAMAGED_TEXT, MAX_EXTENSION_BYTES, MAX_VOLUME_BYTES, MEDICAL_TEXT
from brain_xai.study.volume import Note, Volume, check_size, is_usable
from brain_xai.unreadable import UnreadableStudy

DAMAGED = f"The NIfTI file {DAMAGED_TEXT}"
NOT_LOCATED = Note(
    "not_located", "The file does not say how the head lies. The usual order is assumed; left and right may be swapped."
)
CHUNK = 2**20


def read_nifti(start: Callable[[], BinaryIO], volume: int | None = None, max_bytes: int = MAX_VOLUME_BYTES) -> Volume:
    """Read one volume of a NIfTI file.

    Args:
        start: Opens the file, plain or compressed by gzip.
        volume: Which volume of a 4-D file, from 0; None if the file must hold just one.
        max_bytes: How much memory its values may take; a file that needs more is refused by its header.

    Returns:
        The volume in the index order of the file.

    Raises:
        UnreadableStudy: The file is damaged, too large, or holds something else than one gray volume.
    """
    try:
        with _unpacked(start) as file:
            header = _header(file)
            shape, number, count = _choose(header, volume)
            dtype = header.get_data_dtype()
            if dtype.kind not in "iuf" or dtype.itemsize > 8:
                raise UnreadableStudy("The NIfTI file holds colors or complex numbers. Choose a gray MR volume.")
            slope, intercept = header.get_slope_inter()
            kept = dtype.itemsize if _is_kept(dtype, slope, intercept) else 4  # as float32
            check_size(shape, max(dtype.itemsize, kept), max_bytes)
            size = int(np.prod(shape)) * dtype.itemsize
            offset = int(header["vox_offset"])
            if not int(header["sizeof_hdr"]) <= offset <= MAX_EXTENSION_BYTES:
                raise UnreadableStudy(DAMAGED)
            _skip(file, offset - file.tell() + number * size)
            values = np.frombuffer(_take(file, size), dtype).reshape(shape, order="F")
    except UnreadableStudy:
        raise
    except Exception as error:  # on damaged bytes nibabel and zlib raise nearly anything
        raise UnreadableStudy(DAMAGED) from error
    affine, notes = _affine(header)
    if count > 1:
        notes += (Note("one_of_several", f"This is volume {number + 1} of the {count} in the file."),)
    return Volume(_scaled(values, slope, intercept), affine, True, _slice_axis(affine), (), "NIfTI", notes)


@contextmanager
def _unpacked(start: Callable[[], BinaryIO]):
    with start() as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        yield gzip.GzipFile(fileobj=file) if packed else file


def _header(file: BinaryIO) -> Any:
    """Read the header alone: extensions may hold what identifies a patient."""
    nifti1, nifti2 = nibabel_formats()
    head = file.read(348)
    if head[344:348] == b"n+1\0":
        return nifti1.Nifti1Header(head)
    head += file.read(540 - 348)
    if head[4:8] == b"n+2\0":
        return nifti2.Nifti2Header(head)
    raise UnreadableStudy("Half of a NIfTI pair (.hdr and .img). Save the volume as one .nii or .nii.gz file.")


def nibabel_formats() -> tuple[ModuleType, ModuleType]:
    """Return nibabel's modules for the first and the second version of the format; raises `UnreadableStudy`."""
    try:
        from nibabel import nifti1, nifti2
    except ImportError as error:
        raise UnreadableStudy(f"NIfTI files need nibabel, which is not installed. {MEDICAL_TEXT}") from error
    return nifti1, nifti2


def _choose(header: Any, volume: int | None) -> tuple[tuple[int, int, int], int, int]:
    """Return the shape of a volume, which one it is in the file, and how many there are."""
    shape = tuple(int(side) for side in header.get_data_shape())
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if not 2 <= len(shape) <= 4 or min(shape) < 1:
        raise UnreadableStudy(
            "The NIfTI file does not hold a volume. Choose a file of one volume, with three dimensions."
        )
    count = shape[3] if len(shape) == 4 else 1
    if volume is None and count > 1:
        raise UnreadableStudy(
            f"The NIfTI file holds {count:,} volumes, such as a time series. Choose one by its number, 0 to "
            f"{count - 1:,}."
        )
    number = volume or 0
    if not 0 <= number < count:
        raise UnreadableStudy(f"The NIfTI file has no volume {number}: they are numbered 0 to {count - 1:,}.")
    return (*shape[:3], 1)[:3], number, count


def _skip(file: BinaryIO, size: int) -> None:
    """Read over bytes in small pieces; seeking forward in a compressed file would do the same."""
    if not isinstance(file, gzip.GzipFile):
        file.seek(size, io.SEEK_CUR)
        return
    while size > 0 and (piece := file.read(min(size, CHUNK))):
        size -= len(piece)


def _take(file: BinaryIO, size: int) -> bytearray:
    """Read exactly `size` bytes; memory grows with what is there, not with what the header says."""
    taken = bytearray()
    while len(taken) < size:
        try:
            piece = file.read(min(size - len(taken), CHUNK))
        except (EOFError, zlib.error, OSError) as error:
            raise UnreadableStudy(DAMAGED) from error
        if not piece:
            raise UnreadableStudy(DAMAGED)
        taken += piece
    return taken


def _is_kept(dtype: np.dtype, slope: float | None, intercept: float | None) -> bool:
    """Tell whether values stay as they are: whole numbers of at most 16 bits that nothing scales."""
    return dtype.kind in "iu" and dtype.itemsize <= 2 and (slope is None or (slope, intercept) == (1, 0))


def _scaled(values: np.ndarray, slope: float | None, intercept: float | None) -> np.ndarray:
    """Return values as the file means them: float32, unless they are kept as they are."""
    if _is_kept(values.dtype, slope, intercept):
        return values
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = values.astype(np.float32)
        if slope is not None:
            scaled *= np.float32(slope)
            scaled += np.float32(intercept)
    return scaled


def _affine(header: Any) -> tuple[np.ndarray, tuple[Note, ...]]:
    """Return the affine, and a note where the file itself does not say how the head lies."""
    said = int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0
    for read in (header.get_best_affine, header.get_base_affine) if said else (header.get_base_affine,):
        try:
            affine = np.asarray(read(), dtype=float)
        except Exception:  # nibabel raises several kinds of errors on numbers that are no rotation
            continue
        if is_usable(affine):
            return affine, () if read == header.get_best_affine else (NOT_LOCATED,)
    return np.diag([-1.0, 1.0, 1.0, 1.0]), (NOT_LOCATED,)


def _slice_axis(affine: np.ndarray) -> int | None:
    """Return the axis with the thickest slices, None if all are about as thick as the pixels."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    return int(spacing.argmax()) if spacing.max() > 1.5 * np.median(spacing) else None
