"""What is read of a DICOM file before its pixels: where each slice lies and how its values are to be shown.

Names, dates and texts are never asked for, and nothing of a file is logged.
"""

import hashlib
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np

from brain_xai.study.limits import (
    DAMAGED_TEXT,
    MAX_SLICE_PIXELS,
    MAX_SLICES,
    MEDICAL_TEXT,
    SLICE_TOO_LARGE_TEXT,
    TOO_MANY_SLICES_TEXT,
)
from brain_xai.unreadable import UnreadableStudy

DAMAGED = f"The DICOM file {DAMAGED_TEXT}"
PIXEL_TAGS = [
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
]
HEADER_TAGS = [
    *PIXEL_TAGS,
    "Modality",
    "ImageType",
    "ScanningSequence",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "InstanceNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "RescaleSlope",
    "RescaleIntercept",
    "WindowCenter",
    "WindowWidth",
    "BurnedInAnnotation",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]
DEFLATED = "1.2.840.10008.1.2.1.99"
# Words in the type of an MR image that tell what the model was not trained on: diffusion, perfusion, phase, vessels,
# projections and scouts. "P" is a phase image, "EP" a sequence that is hardly ever used for anything else.
OTHER_TYPES = {
    *("DIFFUSION", "ADC", "FA", "TRACEW", "PERFUSION", "ASL", "PHASE", "PHASE MAP", "P", "SWI", "LOCALIZER"),
    *("MIP", "MNIP", "MIN IP", "PROJECTION IMAGE", "ANGIO", "VELOCITY", "FMRI", "T2 STAR", "T2_STAR"),
}
OTHER_SEQUENCE = "EP"
GRAY, COLOR = ("MONOCHROME1", "MONOCHROME2"), ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")


@dataclass(frozen=True)
class FileFacts:
    """What all frames of a file share.

    Attributes:
        series: A digest of what tells series apart.
        instance: A digest of what tells files apart: the same file may have been chosen twice.
        rows: Height of a frame in pixels.
        columns: Its width.
        frames: How many there are.
        signed: Whether the stored values are signed.
        bits_stored: How many bits of a stored value count.
        bits_allocated: How many bits it takes.
        samples: 1 if gray, 3 if colored.
        inverted: Whether the lowest value is shown white (MONOCHROME1).
        mr: Whether the file says that it is an MR image.
        other_kind: Whether it says that it is a kind of MR image that models do not learn from.
        burned_in: Whether the file says that there is text in the image.
    """

    series: str
    instance: str
    rows: int
    columns: int
    frames: int
    signed: bool
    bits_stored: int
    bits_allocated: int
    samples: int
    inverted: bool
    mr: bool
    other_kind: bool
    burned_in: bool


@dataclass(frozen=True, eq=False)
class Frame:
    """One slice before its pixels are read.

    Attributes:
        file: Facts about its file.
        source: Which of the sources it is in.
        number: Which frame of the file it is.
        instance: The number that the scanner gave it.
        position: Center of the first pixel in millimeters, float64 [3] (left, back, top are positive), None if unknown.
        orientation: Directions along a row and down a column, float64 [2, 3], None if unknown.
        spacing: Millimeters from row to row and from column to column.
        thickness: Millimeters.
        slope: The values are stored value * slope + intercept.
        intercept: See `slope`.
        window: The values shown black and white, None if the file names none.
    """

    file: FileFacts
    source: int
    number: int
    instance: float
    position: np.ndarray | None
    orientation: np.ndarray | None
    spacing: tuple[float, float]
    thickness: float
    slope: float
    intercept: float
    window: tuple[float, float] | None


def pydicom_quiet() -> ModuleType:
    """Return pydicom, without warnings and log lines: they quote the values of tags."""
    try:
        import pydicom
    except ImportError as error:
        raise UnreadableStudy(f"DICOM files need pydicom, which is not installed. {MEDICAL_TEXT}") from error
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", module=r"pydicom(\..*)?")
    return pydicom


def read_frames(start: Callable[[], BinaryIO], source: int) -> list[Frame]:
    """Read the headers of all frames of a file; [] if there is no image in it. Raises `UnreadableStudy`."""
    pydicom = pydicom_quiet()
    try:
        with start() as file:
            _refuse_deflated(file)
            dataset = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=HEADER_TAGS)
            if dataset.get("Rows") is None or dataset.get("Columns") is None:
                return []
            facts = _facts(dataset)
            return list(_frames(dataset, facts, source))
    except UnreadableStudy:
        raise
    except Exception:  # on damaged bytes pydicom raises nearly anything, and quotes what it found
        raise UnreadableStudy(DAMAGED) from None


def _refuse_deflated(file: BinaryIO) -> None:
    """Refuse what pydicom would unpack as a whole, however much it is."""
    from pydicom.filereader import read_dataset

    file.seek(132)
    meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
    file.seek(0)
    if meta.get("TransferSyntaxUID") == DEFLATED:
        raise UnreadableStudy("The DICOM file is deflated as a whole. Save it without compression, then retry.")


def _facts(dataset: Any) -> FileFacts:
    photometric = str(dataset.get("PhotometricInterpretation", "MONOCHROME2")).upper()
    if photometric not in GRAY + COLOR:
        raise UnreadableStudy("The DICOM file holds colors from a palette. Choose a gray MR series.")
    facts = FileFacts(
        series=_digest(dataset.get("SeriesInstanceUID")),
        instance=_digest(dataset.get("SOPInstanceUID")),
        rows=int(dataset.Rows),
        columns=int(dataset.Columns),
        frames=int(dataset.get("NumberOfFrames") or 1),
        signed=int(dataset.get("PixelRepresentation") or 0) == 1,
        bits_stored=int(dataset.BitsStored),
        bits_allocated=int(dataset.BitsAllocated),
        samples=int(dataset.get("SamplesPerPixel") or 1),
        inverted=photometric == "MONOCHROME1",
        mr=str(dataset.get("Modality", "MR")).upper() == "MR",
        other_kind=_is_other_kind(dataset),
        burned_in=str(dataset.get("BurnedInAnnotation", "NO")).upper() == "YES",
    )
    if facts.frames > MAX_SLICES:
        raise UnreadableStudy(TOO_MANY_SLICES_TEXT)
    if facts.rows * facts.columns > MAX_SLICE_PIXELS:
        raise UnreadableStudy(SLICE_TOO_LARGE_TEXT)
    possible = facts.bits_allocated in (8, 16, 32) and 1 <= facts.bits_stored <= facts.bits_allocated
    if min(facts.rows, facts.columns, facts.frames) < 1 or facts.samples not in (1, 3) or not possible:
        raise UnreadableStudy(DAMAGED)
    return facts


def _is_other_kind(dataset: Any) -> bool:
    """Tell whether an MR image is one of diffusion, perfusion, phase or vessels, or a scout."""
    types, sequences = (_words(dataset.get(keyword)) for keyword in ("ImageType", "ScanningSequence"))
    return bool(types & OTHER_TYPES) or OTHER_SEQUENCE in sequences


def _words(value: Any) -> set[str]:
    """Return the words of an element that holds none, one or several."""
    values = [value] if isinstance(value, str) else value or ()
    return {str(word).strip().upper() for word in values}


def _frames(dataset: Any, facts: FileFacts, source: int) -> Iterator[Frame]:
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [None])[0]
    each = dataset.get("PerFrameFunctionalGroupsSequence") or []
    one_for_all = facts.frames > 1 and not each  # old files of many frames say only where the first one lies
    for number in range(facts.frames):
        groups = [group for group in (each[number] if number < len(each) else None, shared) if group is not None]

        def value(keyword: str, sequence: str, groups: list = groups) -> Any:
            """Look a value up where multi-frame files keep it, then where others do."""
            for group in groups:
                items = group.get(sequence)
                if items and items[0].get(keyword) is not None:
                    return items[0].get(keyword)
            return dataset.get(keyword)

        slope = _number(value("RescaleSlope", "PixelValueTransformationSequence")) or 1.0
        spacing = _numbers(value("PixelSpacing", "PixelMeasuresSequence"), 2)
        orientation = _numbers(value("ImageOrientationPatient", "PlaneOrientationSequence"), 6)
        yield Frame(
            file=facts,
            source=source,
            number=number,
            instance=(_number(dataset.get("InstanceNumber")) or 0.0) + number,
            position=None if one_for_all else _numbers(value("ImagePositionPatient", "PlanePositionSequence"), 3),
            orientation=None if orientation is None else _unit(orientation.reshape(2, 3)),
            spacing=(1.0, 1.0) if spacing is None else (float(spacing[0]), float(spacing[1])),
            thickness=_number(value("SliceThickness", "PixelMeasuresSequence")) or 1.0,
            slope=slope,
            intercept=_number(value("RescaleIntercept", "PixelValueTransformationSequence")) or 0.0,
            window=_window(value("WindowCenter", "FrameVOILUTSequence"), value("WindowWidth", "FrameVOILUTSequence")),
        )


def _unit(orientation: np.ndarray) -> np.ndarray | None:
    """Return the directions at length 1, None if they are not at right angles."""
    lengths = np.linalg.norm(orientation, axis=1, keepdims=True)
    if (np.abs(lengths - 1) > 0.05).any():
        return None
    unit = orientation / lengths
    return unit if abs(float(unit[0] @ unit[1])) < 0.05 else None


def _window(center: Any, width: Any) -> tuple[float, float] | None:
    """Return the values shown black and white (PS3.3 C.11.2.1.2), of the first window if there are several."""
    center, width = _number(center), _number(width)
    if center is None or width is None or width < 1:
        return None
    low = center - 0.5 - (width - 1) / 2
    return low, low + max(width - 1, 1.0)


def _number(value: Any) -> float | None:
    """Return a number, or the first of several; None where there is none or it is not finite."""
    if value is None or isinstance(value, str):
        return None
    try:
        first = value if np.isscalar(value) or not hasattr(value, "__len__") else value[0]
        number = float(first)
    except (TypeError, ValueError, IndexError):
        return None
    return number if np.isfinite(number) and abs(number) < 1e12 else None


def _numbers(value: Any, count: int) -> np.ndarray | None:
    """Return `count` finite numbers, None where there are not as many."""
    try:
        numbers = np.asarray([float(part) for part in value], dtype=float)
    except (TypeError, ValueError):
        return None
    return numbers if numbers.shape == (count,) and np.isfinite(numbers).all() else None


def _digest(uid: Any) -> str:
    """Return what can be compared like an identifier, and is none."""
    return hashlib.sha256(str(uid).encode()).hexdigest()[:16] if uid else ""
