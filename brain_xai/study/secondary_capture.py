"""The map of a study as a DICOM file for a picture archive: one color frame per slice, with identifiers of its own."""

import io
from datetime import UTC, datetime
from typing import Any

import numpy as np
from PIL import Image

from brain_xai.methods import METHODS
from brain_xai.study.dicom_header import pydicom_quiet
from brain_xai.study.explain import Progress, StudyExplanation
from brain_xai.study.study import Study

# Codes of the notes that say that there is text in the slices, and so in the frames.
TEXT_CODES = {"burned_in", "text_in_image"}
# JPEG: every viewer reads it, and a whole head takes megabytes instead of hundreds of them.
QUALITY = 92
# Pillow's number for full resolution in brightness and half of it in color along a row, as DICOM asks for.
HALF_COLOR = 1
# What a description may hold (LO), in characters.
MAX_DESCRIPTION = 64
# Rows and columns of an image have to be at right angles; the cosine between them is at most this.
SQUARE = 1e-3


def to_dicom(explained: StudyExplanation, progress: Progress | None = None) -> bytes:
    """Return the drawn maps of all slices as one DICOM file, with nothing in it about the patient.

    The frames show the slices: text that is burned into these is in the frames, too, and the file then says so. For
    the numbers of the map, use `to_nifti`.

    Args:
        explained: The study.
        progress: Called as `progress(done, total)` after each slice; what it raises ends the work.

    Returns:
        A Multi-frame True Color Secondary Capture file, JPEG: one frame per slice in the order of the study, each with
        its color bar and, where the study says how the head lies, its place in millimeters. All identifiers are new,
        so it belongs to no study until an archive assigns it to one.
    """
    pydicom_quiet()
    from pydicom.encaps import encapsulate

    frames, size, total = [], (0, 0), len(explained.study)
    for index in range(total):
        drawn = explained.explanation(index).image()
        frames.append(_jpeg(drawn))
        size = drawn.size
        if progress:
            progress(index + 1, total)
    made = _described(explained, datetime.now(UTC))
    made.Columns, made.Rows = size
    made.LossyImageCompressionRatio = round(size[0] * size[1] * 3 * total / sum(map(len, frames)), 2)
    if explained.study.volume.located:
        _locate(made, explained.study, size[0])
    made.PixelData = encapsulate(frames)
    made["PixelData"].VR = "OB"
    buffer = io.BytesIO()
    made.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _jpeg(drawn: Image.Image) -> bytes:
    buffer = io.BytesIO()
    drawn.save(buffer, "JPEG", quality=QUALITY, subsampling=HALF_COLOR)
    return buffer.getvalue()


def _described(explained: StudyExplanation, now: datetime) -> Any:
    """Return the file without its frames (PS3.3 A.8.5): elements about the patient are there, and empty."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import JPEGBaseline8Bit, MultiFrameTrueColorSecondaryCaptureImageStorage

    method, info, count = METHODS[explained.method], explained.predictions[0].checkpoint, len(explained.study)
    made = Dataset()
    made.SpecificCharacterSet = "ISO_IR 192"
    made.SOPClassUID, made.SOPInstanceUID = MultiFrameTrueColorSecondaryCaptureImageStorage, _new_uid()
    made.StudyInstanceUID, made.SeriesInstanceUID = _new_uid(), _new_uid()
    made.PatientName = made.PatientID = made.PatientBirthDate = made.PatientSex = ""
    made.ReferringPhysicianName = made.AccessionNumber = made.StudyID = made.Manufacturer = ""
    made.StudyDate = made.ContentDate = f"{now:%Y%m%d}"
    made.StudyTime = made.ContentTime = f"{now:%H%M%S}"
    made.Modality, made.ConversionType, made.SeriesNumber, made.InstanceNumber = "OT", "WSD", 1, 1
    said = f"{method.title}, {explained.text(explained.label)}. Not for diagnosis."
    made.SeriesDescription = said[:MAX_DESCRIPTION]
    made.ImageType = ["DERIVED", "SECONDARY"]
    speaks = "Orange speaks for it, blue against it." if method.signed else "Orange: what the answer depends on."
    made.DerivationDescription = (
        f"Brain XAI: map by {method.title} for {explained.text(explained.label)}; same colors in every frame. {speaks} "
        f"Model {info.id}, revision {info.revision}. Research software, not a medical device, not for diagnosis."
    )
    noted = {note.code for note in explained.study.notes}
    made.BurnedInAnnotation = "YES" if noted & TEXT_CODES else "NO"
    made.LossyImageCompression, made.LossyImageCompressionMethod = "01", "ISO_10918_1"
    made.SamplesPerPixel, made.PlanarConfiguration, made.PhotometricInterpretation = 3, 0, "YBR_FULL_422"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 8, 8, 7, 0
    made.NumberOfFrames, made.FrameIncrementPointer = count, 0x00182001
    made.PageNumberVector = list(range(1, count + 1))
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    made.file_meta.MediaStorageSOPClassUID, made.file_meta.MediaStorageSOPInstanceUID = (
        made.SOPClassUID,
        made.SOPInstanceUID,
    )
    return made


def _locate(made: Any, study: Study, width: int) -> None:
    """Say where each frame lies (PS3.3 C.7.6.16); nothing if the slices are sheared, which DICOM cannot express.

    Args:
        made: The file.
        study: The study.
        width: Of a frame, in pixels.
    """
    from pydicom.dataset import Dataset

    rows, columns = study.displayed(study.volume.values).shape[1:]
    # Pixels of the slice per pixel of the frame: the slice was enlarged by the same factor in both directions.
    along, down = columns / width, rows * study.image_size[0] / (width * study.image_size[1])
    corner = (0.5 * down - 0.5, 0.5 * along - 0.5)
    first = [_point(study, index, *corner) for index in range(len(study))]
    right = _point(study, 0, corner[0], corner[1] + along) - first[0]
    below = _point(study, 0, corner[0] + down, corner[1]) - first[0]
    lengths = [float(np.linalg.norm(step)) for step in (below, right)]
    if abs(float(right @ below)) > SQUARE * lengths[0] * lengths[1]:
        return
    shared, measures, lies = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = _decimals(lengths)
    measures.SliceThickness = measures.SpacingBetweenSlices = _decimals(study.spacing[:1])[0]
    lies.ImageOrientationPatient = _decimals((*(right / lengths[1]), *(below / lengths[0])))
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [lies]
    organization = Dataset()
    organization.DimensionOrganizationUID = _new_uid()
    made.FrameOfReferenceUID, made.PositionReferenceIndicator = _new_uid(), ""
    made.DimensionOrganizationSequence, made.DimensionIndexSequence = [organization], []
    made.SharedFunctionalGroupsSequence, made.PerFrameFunctionalGroupsSequence = [shared], []
    for position in first:
        group, place = Dataset(), Dataset()
        place.ImagePositionPatient = _decimals(position)
        group.PlanePositionSequence = [place]
        made.PerFrameFunctionalGroupsSequence.append(group)


def _point(study: Study, index: int, row: float, column: float) -> np.ndarray:
    """Return a place of a slice in millimeters as DICOM counts them: toward the left, the back and the top."""
    return np.array(study.point(index, row, column)) * (-1, -1, 1)


def _decimals(values: Any) -> list[str]:
    """Return numbers as DICOM writes them: at most 16 characters."""
    return [f"{float(np.round(value, 6)) + 0.0:.6f}"[:16] for value in values]


def _new_uid() -> str:
    from pydicom.uid import generate_uid

    return generate_uid(prefix=None)
