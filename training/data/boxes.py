"""Tumor boxes of the training images, which the evidence for a class should come from."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from training.data.sources import DataError

COLUMNS = ("x_min", "y_min", "x_max", "y_max")


def load_boxes(file: str | Path, files: Sequence[str]) -> np.ndarray:
    """Read the boxes of images.

    Args:
        file: CSV with the columns file, x_min, y_min, x_max, y_max, in fractions of width and height.
        files: Names of the images, relative to the data folder, as in the column "file".

    Returns:
        float32 [n, 4], NaN for images without a box.

    Raises:
        DataError: if the file cannot be read or names none of the images.
    """
    try:
        with Path(file).open(encoding="utf-8", newline="") as lines:
            known = {row["file"]: [float(row[column]) for column in COLUMNS] for row in csv.DictReader(lines)}
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{file} is not a CSV with the columns file, {', '.join(COLUMNS)}: {error}") from error
    boxes = np.array([known.get(name, [np.nan] * 4) for name in files], dtype=np.float32).reshape(-1, 4)
    if np.isnan(boxes).all():
        raise DataError(f"{file} names none of the images. Names are relative to the data folder.")
    return boxes


def boxes_in_frame(boxes: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Return the boxes [n, 4] in fractions of the framed image; `frames` [n, 4] is the part of the file it shows."""
    start, size = frames[:, :2], frames[:, 2:] - frames[:, :2]
    return ((boxes.reshape(-1, 2, 2) - start[:, None]) / size[:, None]).reshape(-1, 4).clip(0, 1)


def box_masks(boxes: torch.Tensor, size: int) -> torch.Tensor:
    """Draw boxes [N, 4] as masks, float32 [N, 1, size, size]: the fraction of each pixel inside; 0 without a box."""
    edges = torch.arange(size + 1, device=boxes.device) / size
    x_min, y_min, x_max, y_max = boxes.nan_to_num(0).T[:, :, None]

    def covered(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        return (torch.minimum(high, edges[1:]) - torch.maximum(low, edges[:-1])).clamp(min=0) * size

    return (covered(y_min, y_max)[:, :, None] * covered(x_min, x_max)[:, None, :])[:, None]
