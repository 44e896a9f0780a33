"""A study: one volume of a head, slice by slice as a radiologist looks at it."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from brain_xai.study.annotation import has_text
from brain_xai.study.limits import MAX_SLICES, TOO_MANY_SLICES_TEXT
from brain_xai.study.volume import ENDS, PLANES, Note, Volume, axes_in_head
from brain_xai.unreadable import UnreadableStudy

# Black and white of a volume whose file names none: percentiles, so that single hot voxels do not matter.
BLACK_PERCENTILE, WHITE_PERCENTILE = 0.2, 99.8
# How many voxels the percentiles are taken from.
SAMPLES = 2_000_000
# A window that leaves less than this share of the slice between black and white shows nothing.
MIN_SHOWN = 0.02
# How many slices are looked at for text.
CHECKED_FOR_TEXT = 7
TEXT = Note(
    "text_in_image", "There seems to be text in a corner of the slices. It may name the patient: look before you share."
)
# Pixels longer than wide by this factor come from slices that were cut across.
ACROSS_FACTOR = 2.5
ACROSS = Note(
    "across_slices",
    "These images are cut across the slices that the scanner took. They are coarse in one direction, and models do not "
    "know such images. Choose the plane as scanned.",
)
# Slices are oblique if their normal is further than this from every axis of the head, in degrees.
OBLIQUE_DEGREES = 30
OBLIQUE = Note("oblique", "The slices lie askew between the planes that the model knows: axial, coronal and sagittal.")
# Pixels are made square if one side is longer by this factor.
SQUARE = 1.02
# For the planes of `PLANES`: the axis of the head across the slices, down the rows and along the columns, each with
# its direction. Radiological display: the patient's right is on the left of the image, the front or the top is up.
DISPLAY = {
    "sagittal": ((0, -1), (2, -1), (1, -1)),
    "coronal": ((1, 1), (2, -1), (0, -1)),
    "axial": ((2, 1), (1, -1), (0, -1)),
}


@dataclass(frozen=True, eq=False)
class Study:
    """A volume cut into slices of one plane.

    Attributes:
        volume: The volume as it was read.
        plane: "axial", "coronal", "sagittal", or "unknown" where the files do not say how the head lies.
    """

    volume: Volume
    plane: str

    def __post_init__(self):
        if len(self) > MAX_SLICES:
            raise UnreadableStudy(TOO_MANY_SLICES_TEXT)

    def __len__(self) -> int:
        """Return the number of slices."""
        return self.volume.values.shape[self._order[0][0]]

    @property
    def kind(self) -> str:
        """What the study was read from: "DICOM" or "NIfTI"."""
        return self.volume.kind

    @cached_property
    def notes(self) -> tuple[Note, ...]:
        """What users must know about the files and the plane."""
        step = max(len(self) // CHECKED_FOR_TEXT, 1)
        checked = [has_text(self.image(index)) for index in range(0, len(self), step)]
        _, down, along = self.spacing
        holds = {
            OBLIQUE: self.volume.located and self._tilt > OBLIQUE_DEGREES,
            ACROSS: max(down, along) > ACROSS_FACTOR * min(down, along),
            TEXT: 2 * sum(checked) > len(checked),
        }
        return (*self.volume.notes, *(note for note, said in holds.items() if said))

    @property
    def ends(self) -> tuple[str, str]:
        """Where the first and the last slice lie, such as ("bottom", "top")."""
        return ENDS[self.plane]

    @cached_property
    def spacing(self) -> tuple[float, float, float]:
        """Millimeters from slice to slice, from row to row, and from column to column."""
        lengths = np.linalg.norm(self.volume.affine[:3, :3], axis=0)
        a, b, c = (float(lengths[axis]) for axis, _ in self._order)
        return a, b, c

    @cached_property
    def image_size(self) -> tuple[int, int]:
        """Width and height of `image()`: the slice with square pixels."""
        rows, columns = self.displayed(self.volume.values).shape[1:]
        _, down, along = self.spacing
        if max(down, along) <= SQUARE * min(down, along):
            return columns, rows
        unit = min(down, along)
        return max(round(columns * along / unit), 1), max(round(rows * down / unit), 1)

    def displayed(self, values: np.ndarray) -> np.ndarray:
        """Return values [d0, d1, d2] on the grid of the volume as [slices, rows, columns], a view of the same memory.

        Writing to the view writes a slice back to where it lies in the volume.
        """
        axes, directions = zip(*self._order, strict=True)
        return values.transpose(axes)[tuple(slice(None, None, step) for step in directions)]

    def point(self, index: int, row: float, column: float) -> tuple[float, float, float]:
        """Return a place of a slice in millimeters, toward the right, the front and the top (RAS+).

        Args:
            index: Which slice.
            row: Pixels of the slice below the middle of its first row.
            column: Likewise, to the right of its first column.

        Returns:
            x, y and z.
        """
        place = np.ones(4)
        for (axis, direction), value in zip(self._order, (index, row, column), strict=True):
            place[axis] = value if direction > 0 else self.volume.values.shape[axis] - 1 - value
        x, y, z = (self.volume.affine @ place)[:3]
        return float(x), float(y), float(z)

    def center(self, index: int) -> tuple[float, float, float]:
        """Return the center of a slice in millimeters, as `point` does."""
        rows, columns = self.displayed(self.volume.values).shape[1:]
        return self.point(index, (rows - 1) / 2, (columns - 1) / 2)

    def slice(self, index: int) -> np.ndarray:
        """Return the values of a slice, float32 [rows, columns], in the unit of the files; 0 where not finite."""
        values = self.displayed(self.volume.values)[index].astype(np.float32)
        return np.nan_to_num(values, copy=False, nan=0, posinf=0, neginf=0)

    def image(self, index: int) -> Image.Image:
        """Return a slice as people see it, gray ("L"), with square pixels, in the window of the file or the volume."""
        values = self.slice(index)
        black, white = self._window(index, values)
        gray = ((values - black) / (white - black) * 255).clip(0, 255).round().astype(np.uint8)
        image = Image.fromarray(gray)
        return image if image.size == self.image_size else image.resize(self.image_size, Image.Resampling.BICUBIC)

    def to_slice(self, values: np.ndarray) -> np.ndarray:
        """Resample float values [height, width] of `image()` to the pixels of the slice, float32 [rows, columns]."""
        rows, columns = self.displayed(self.volume.values).shape[1:]
        layer = Image.fromarray(np.asarray(values, dtype=np.float32))
        return np.asarray(layer.resize((columns, rows), Image.Resampling.BILINEAR))

    @cached_property
    def _order(self) -> tuple[tuple[int, int], ...]:
        """The axes of the volume across slices, down the rows and along the columns, each with its direction."""
        if self.plane == "unknown":  # as stored: the first index is the column
            return (2, 1), (1, 1), (0, 1)
        found = axes_in_head(self.volume.affine)
        by_head = {head: (axis, direction) for axis, (head, direction) in enumerate(found)}
        return tuple((by_head[head][0], by_head[head][1] * wanted) for head, wanted in DISPLAY[self.plane])

    @property
    def _tilt(self) -> float:
        """The angle in degrees between the normal of the slices and the nearest axis of the head."""
        (_, _), (down, _), (along, _) = self._order
        normal = np.cross(self.volume.affine[:3, down], self.volume.affine[:3, along])
        return float(np.degrees(np.arccos(np.clip(np.abs(normal).max() / np.linalg.norm(normal), 0, 1))))

    def _window(self, index: int, values: np.ndarray) -> tuple[float, float]:
        """Return the values shown black and white: the file's, unless it names none or one that shows nothing."""
        axis, direction = self._order[0]
        if axis == self.volume.slice_axis and self.volume.windows:
            window = self.volume.windows[index if direction > 0 else len(self) - 1 - index]
            if window and ((values > window[0]) & (values < window[1])).mean() >= MIN_SHOWN:
                return window
        return self._volume_window

    @cached_property
    def _volume_window(self) -> tuple[float, float]:
        flat = self.volume.values.ravel(order="K")
        sample = flat[:: max(flat.size // SAMPLES, 1)].astype(np.float32)
        sample = sample[np.isfinite(sample)]
        if not sample.size:
            return 0.0, 1.0
        black, white = np.percentile(sample, (BLACK_PERCENTILE, WHITE_PERCENTILE)).astype(float)
        return black, white if white > black else black + max(1.0, abs(black))  # adding 1 is lost in large values


def cut(volume: Volume, plane: str | None = None) -> Study:
    """Cut a volume into slices.

    Args:
        volume: The volume.
        plane: "axial", "coronal" or "sagittal"; None for the plane that the scanner took, or axial if it took a volume.

    Returns:
        The study.

    Raises:
        ValueError: The plane does not exist.
        UnreadableStudy: The plane cannot be told, because the files do not say how the head lies, or has too many
            slices.
    """
    if plane is not None and plane not in PLANES:
        raise ValueError(f"{plane!r} is not a plane. Use one of: {', '.join(PLANES)}.")
    if not volume.located:
        if plane is not None:
            raise UnreadableStudy("The files do not say how the head lies, so no plane can be chosen.")
        return Study(volume, "unknown")
    if plane is None:
        plane = "axial" if volume.slice_axis is None else PLANES[axes_in_head(volume.affine)[volume.slice_axis][0]]
    return Study(volume, plane)
