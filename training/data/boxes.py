"""Tumour boxes as teachers of place: the evidence for a scan's class should come from inside its box."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from training.data.sources import DataError

COLUMNS = ("x_min", "y_min", "x_max", "y_max")


def load_boxes(file: str | Path, files: Sequence[str]) -> np.ndarray:
    """Return the boxes of the pictures `files`, float32 [n, 4], NaN where a picture has none; raises `DataError`.

    `file` is a CSV with the columns file, x_min, y_min, x_max, y_max; a box is given in fractions of width and height.
    """
    try:
        with Path(file).open(encoding="utf-8", newline="") as lines:
            known = {row["file"]: [float(row[column]) for column in COLUMNS] for row in csv.DictReader(lines)}
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{file} is no CSV with the columns file, {', '.join(COLUMNS)}: {error}") from error
    boxes = np.array([known.get(name, [np.nan] * 4) for name in files], dtype=np.float32).reshape(-1, 4)
    if np.isnan(boxes).all():
        raise DataError(f"None of the pictures is named in {file}. Names are relative to the data folder.")
    return boxes


def boxes_in_frame(boxes: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Return the boxes [n, 4] in fractions of the framed image; `frames` [n, 4] is the part of the file it shows."""
    start, size = frames[:, :2], frames[:, 2:] - frames[:, :2]
    return ((boxes.reshape(-1, 2, 2) - start[:, None]) / size[:, None]).reshape(-1, 4).clip(0, 1)


def box_masks(boxes: torch.Tensor, size: int) -> torch.Tensor:
    """Draw boxes [N, 4] as masks, float32 [N, 1, size, size]: the share of each pixel inside; 0 where there is none."""
    edges = torch.arange(size + 1, device=boxes.device) / size
    x_min, y_min, x_max, y_max = boxes.nan_to_num(0).T[:, :, None]

    def covered(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        return (torch.minimum(high, edges[1:]) - torch.maximum(low, edges[:-1])).clamp(min=0) * size

    return (covered(y_min, y_max)[:, :, None] * covered(x_min, x_max)[:, None, :])[:, None]
