"""Phantoms of a head and the DICOM and NIfTI files of them, with a patient's name in every tag that may hold one."""

import io
import zipfile
from collections.abc import Iterable
from pathlib import Path

import nibabel
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

PATIENT = "DOE^JANE_1961"
IN_ROWS = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def head(slices: int = 12, rows: int = 48, columns: int = 40) -> np.ndarray:
    """Return a head without any symmetry, uint16 [slices, rows, columns] of 0 to 1000: every slice is brighter."""
    k, y, x = np.mgrid[0:slices, 0:rows, 0:columns]
    inside = ((y - rows / 2) / (0.45 * rows)) ** 2 + ((x - columns / 2) / (0.42 * columns)) ** 2 < 1
    values = np.where(inside, 200 + 20 * k + 3 * y + 5 * x, 0)
    values[:, rows // 4 : rows // 4 + 6, columns // 4 : columns // 4 + 4] += 300 * inside.any()
    return values.clip(0, 1000).astype(np.uint16)


def dataset(pixels: np.ndarray, number: int, position: Iterable[float] | None, series: str, **tags) -> Dataset:
    """Return one slice [rows, columns] as an uncompressed MR image; `tags` replace or, if None, remove elements."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = MRImageStorage
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = generate_uid()
    made.PatientName = made.PatientID = made.StudyDescription = made.SeriesDescription = PATIENT
    made.InstitutionName = made.ReferringPhysicianName = made.ImageComments = PATIENT
    made.Modality, made.SeriesInstanceUID, made.InstanceNumber = "MR", series, number
    if position is not None:
        made.ImagePositionPatient, made.ImageOrientationPatient = [float(f"{p:.6f}") for p in position], list(IN_ROWS)
    made.PixelSpacing, made.SliceThickness = [1.0, 1.0], 5.0
    made.Rows, made.Columns = pixels.shape[:2]
    made.SamplesPerPixel = 3 if pixels.ndim == 3 and pixels.shape[2] == 3 else 1
    made.PhotometricInterpretation = "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = 8 * pixels.dtype.itemsize
    made.HighBit = made.BitsStored - 1
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    made.PixelData = pixels.tobytes()
    for keyword, value in tags.items():
        if value is None:
            delattr(made, keyword)
        else:
            setattr(made, keyword, value)
    return made


def series_of(volume: np.ndarray, **tags) -> list[Dataset]:
    """Return an axial series, 5 mm from slice to slice, the first slice at the bottom, from (-20, -30, 10)."""
    series = generate_uid()
    return [
        dataset(pixels, number, (-20, -30, 10 + 5 * number), series, **tags) for number, pixels in enumerate(volume)
    ]


def to_bytes(one: Dataset) -> bytes:
    buffer = io.BytesIO()
    one.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def write(folder: Path, series: list[Dataset]) -> Path:
    """Write files whose names are in no useful order, and named after the patient; return their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for place, one in enumerate(series):
        (folder / f"{(place * 7919) % 10007:05d}_{PATIENT}").write_bytes(to_bytes(one))
    return folder


def zipped(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_nifti(path: Path, volume: np.ndarray, affine: np.ndarray, **header) -> Path:
    """Write values [i, j, k, …], with the patient's name in the header; `header` sets its fields."""
    image = nibabel.Nifti1Image(volume, affine)
    image.header["descrip"] = image.header["db_name"] = PATIENT[:17]
    for key, value in header.items():
        image.header[key] = value
    image.to_filename(path)
    return path
