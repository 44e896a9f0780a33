"""Read a DICOM series: choose it, sort its slices by position, decode them one by one."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from brain_xai.study.dicom_header import Frame, read_frames
from brain_xai.study.dicom_pixels import decoded
from brain_xai.study.limits import MAX_SLICES, MAX_VOLUME_BYTES, TOO_MANY_SLICES_TEXT
from brain_xai.study.sources import Source
from brain_xai.study.volume import PLANES, Note, Volume, axes_in_head, check_size, is_usable
from brain_xai.unreadable import Series, SeveralSeries, UnreadableStudy

# Positions nearer than this, in millimeters, are the same.
SAME_PLACE = 0.01
# Slices are unevenly spaced if a gap differs from the mean by more than this share of it.
UNEVEN = 0.1
NO_IMAGE_TEXT = "There is no image in the DICOM files. Choose those of an MR series. Or: Save one slice as PNG."
NOTES = {
    "not_sorted_by_position": "The files do not say where each slice lies. They are sorted by their numbers; the "
    "order, left and right may be wrong.",
    "uneven_slices": "The slices are not evenly spaced, or some are missing. Distances in the saved map are a mean.",
    "unreadable_files": "Some files could not be read and were left out.",
    "not_mr": "The files say that this is not an MR scan. The model knows MR scans only.",
    "other_kind": "The files say that this is a kind of MR image that the model does not know, such as diffusion, "
    "perfusion, phase, vessels or a scout.",
    "burned_in": "The files say that there is text in the images. It may name the patient: do not share the images.",
    "color": "The images are colored. They are read as gray.",
}


@dataclass(frozen=True, eq=False)
class Stack:
    """The frames of one series, sorted, at different places."""

    frames: list[Frame]
    located: bool


def read_dicom(sources: Sequence[Source], series: int | None = None, max_bytes: int = MAX_VOLUME_BYTES) -> Volume:
    """Read one series.

    Args:
        sources: The DICOM files.
        series: Which series, from 1, as `SeveralSeries` numbers them; None if there must be just one.
        max_bytes: How much memory its values may take.

    Returns:
        The volume; its first axis runs along a row, its second down a column, its third across the slices.

    Raises:
        SeveralSeries: There are several, and none was chosen.
        UnreadableStudy: A file is damaged or too large, or there is no image.
    """
    frames, broken = _all_frames(sources)
    stacks = _stacks(frames)
    if series is None and len(stacks) > 1:
        raise SeveralSeries(tuple(_described(number, stack) for number, stack in enumerate(stacks, 1)))
    number = series or 1
    if not 1 <= number <= len(stacks):
        raise UnreadableStudy(f"There is no series {number}: they are numbered 1 to {len(stacks)}.")
    stack = stacks[number - 1]
    first = stack.frames[0].file
    whole = all(_is_whole(frame) for frame in stack.frames)
    dtype = np.dtype((np.int16 if first.signed else np.uint16) if whole else np.float32)
    shape = (len(stack.frames), first.rows, first.columns)
    check_size(shape, dtype.itemsize, max_bytes)
    values = np.empty(shape, dtype)
    _fill(values, stack, sources)
    affine, uneven = _affine(stack)
    codes = {
        "not_sorted_by_position": not stack.located,
        "uneven_slices": uneven,
        "unreadable_files": broken > 0,
        "not_mr": not first.mr,
        "other_kind": first.mr and any(frame.file.other_kind for frame in stack.frames),
        "burned_in": any(frame.file.burned_in for frame in stack.frames),
        "color": first.samples == 3,
    }
    notes = tuple(Note(code, NOTES[code]) for code, holds in codes.items() if holds)
    windows = tuple(_shown_window(frame) for frame in stack.frames)
    return Volume(values.T, affine, stack.located, 2, windows, "DICOM", notes)


def _all_frames(sources: Sequence[Source]) -> tuple[list[Frame], int]:
    """Read all headers; returns the frames and how many files could not be read."""
    frames: list[Frame] = []
    seen: set[tuple] = set()
    errors: list[UnreadableStudy] = []
    for index, source in enumerate(sources):
        try:
            found = read_frames(source.open, index)
        except UnreadableStudy as error:
            errors.append(error)
            continue
        new = [frame for frame in found if (key := _identity(frame)) is None or key not in seen]
        seen |= {_identity(frame) for frame in new}
        frames += new
        if len(frames) > 4 * MAX_SLICES:
            raise UnreadableStudy(TOO_MANY_SLICES_TEXT)
    if not frames:
        raise errors[0] if errors else UnreadableStudy(NO_IMAGE_TEXT)
    return frames, len(errors)


def _stacks(frames: list[Frame]) -> list[Stack]:
    """Part frames into stacks of one series, size and orientation, the largest first."""
    groups: dict[tuple, list[Frame]] = defaultdict(list)
    for frame in frames:
        file = frame.file
        lies = None if frame.orientation is None else tuple(np.round(frame.orientation, 2).ravel() + 0.0)
        groups[file.series, file.rows, file.columns, file.samples, file.signed, file.inverted, lies].append(frame)
    stacks = [stack for group in groups.values() for stack in _by_place(group)]
    if all(len(stack.frames) > MAX_SLICES for stack in stacks):
        raise UnreadableStudy(TOO_MANY_SLICES_TEXT)
    return sorted(stacks, key=lambda stack: -len(stack.frames))


def _by_place(group: list[Frame]) -> list[Stack]:
    """Sort frames along their normal; where places repeat (echoes, times), every repetition is a stack of its own."""
    located = all(frame.position is not None and frame.orientation is not None for frame in group)
    if not located:
        return [Stack(sorted(group, key=lambda frame: frame.instance), False)]
    normal = np.cross(*group[0].orientation)
    along = np.array([frame.position @ normal for frame in group])
    order = along.argsort(kind="stable")
    places = np.empty(len(group), dtype=int)
    places[order] = np.concatenate([[0], np.cumsum(np.diff(along[order]) > SAME_PLACE)])
    stacks: list[list[Frame]] = []
    repeats, before = 0, -1
    for index in sorted(range(len(group)), key=lambda index: (places[index], group[index].instance)):
        repeats = repeats + 1 if places[index] == before else 0
        before = places[index]
        if repeats == len(stacks):
            stacks.append([])
        stacks[repeats].append(group[index])
    return [Stack(stack, True) for stack in stacks]


def _described(number: int, stack: Stack) -> Series:
    file = stack.frames[0].file
    affine, _ = _affine(stack)
    plane = PLANES[axes_in_head(affine)[2][0]] if stack.located else "unknown"
    return Series(number, len(stack.frames), (file.columns, file.rows), plane)


def _affine(stack: Stack) -> tuple[np.ndarray, bool]:
    """Return the affine of (column, row, slice), and whether the slices are unevenly spaced."""
    first, last = stack.frames[0], stack.frames[-1]
    down, along = first.spacing
    if not stack.located:
        affine = np.diag([along, down, first.thickness, 1.0])
        return (affine if is_usable(affine) else np.eye(4)), False
    normal = np.cross(*first.orientation)
    steps, uneven = first.thickness * normal, False
    if len(stack.frames) > 1:
        steps = (last.position - first.position) / (len(stack.frames) - 1)
        gaps = np.diff([frame.position @ normal for frame in stack.frames])
        uneven = bool((np.abs(gaps - gaps.mean()) > UNEVEN * gaps.mean()).any())
    affine = np.eye(4)
    affine[:3, :3] = np.stack([first.orientation[0] * along, first.orientation[1] * down, steps], axis=1)
    affine[:3, 3] = first.position
    usable = is_usable(affine)
    if not usable:
        affine[:3, :3] = np.stack([*first.orientation, normal], axis=1)
    affine[:2] *= -1  # DICOM's axes run to the left and to the back, those of an affine to the right and to the front
    return affine, uneven or not usable


def _identity(frame: Frame) -> tuple | None:
    """Return what two copies of a frame share; None if the file does not say."""
    place = None if frame.position is None else frame.position.tobytes()
    return (frame.file.instance, frame.number, frame.instance, place) if frame.file.instance else None


def _fill(values: np.ndarray, stack: Stack, sources: Sequence[Source]) -> None:
    """Decode all frames into `values` [slices, rows, columns]; each file is opened once."""
    by_source: dict[int, dict[int, int]] = defaultdict(dict)
    for place, frame in enumerate(stack.frames):
        by_source[frame.source][frame.number] = place
    for source, places in by_source.items():
        for number, pixels in decoded(sources[source].open, stack.frames[next(iter(places.values()))].file, places):
            frame = stack.frames[places[number]]
            values[places[number]] = pixels if values.dtype.kind in "iu" else _scaled(pixels, frame)


def _is_whole(frame: Frame) -> bool:
    """Tell whether the values are the stored ones, of at most 16 bits."""
    return frame.file.bits_allocated <= 16 and frame.slope == 1 and frame.intercept == 0


def _scaled(pixels: np.ndarray, frame: Frame) -> np.ndarray:
    return pixels.astype(np.float32) * np.float32(frame.slope) + np.float32(frame.intercept)


def _shown_window(frame: Frame) -> tuple[float, float] | None:
    """Return the window for values that `decoded` has turned around where the lowest is shown white."""
    if frame.window is None or not frame.file.inverted:
        return frame.window
    low, high = frame.window
    top = (sum(stored_range(frame)) * frame.slope) + 2 * frame.intercept
    return top - high, top - low


def stored_range(frame: Frame) -> tuple[int, int]:
    """Return the lowest and highest value that a stored value can have."""
    bits = frame.file.bits_stored
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if frame.file.signed else (0, 2**bits - 1)
