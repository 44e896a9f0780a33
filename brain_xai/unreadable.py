"""What cannot be read is refused with a sentence that says what is wrong and what to do."""

from dataclasses import dataclass


class UnreadableImage(ValueError):
    """The image cannot be used; the message says what is wrong and what to do."""


class UnreadableStudy(UnreadableImage):
    """The files of a study cannot be used; the message says what is wrong and what to do."""


@dataclass(frozen=True)
class Series:
    """One of several series in the same files.

    Attributes:
        number: What to pass as `series`, from 1.
        slices: How many slices it has.
        size: Width and height of a slice in pixels.
        plane: "axial", "coronal", "sagittal" or "unknown".
    """

    number: int
    slices: int
    size: tuple[int, int]
    plane: str


class SeveralSeries(UnreadableStudy):
    """The files hold several series, and only one can be read at a time; `series` lists them."""

    def __init__(self, series: tuple[Series, ...]):
        self.series = series
        listed = ", ".join(
            f"{one.number} ({one.slices} {'slice' if one.slices == 1 else 'slices'}, {one.plane})" for one in series[:6]
        )
        more = f" and {len(series) - 6} more" if len(series) > 6 else ""
        super().__init__(f"The files hold {len(series)} series: {listed}{more}. Choose one by its number.")
