"""Batches straight from the decoded scans: no worker processes, no file is opened during an epoch."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

from brain_xai.preprocess import Preprocessing
from training.data.boxes import box_masks

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class ScanDataset(Dataset):
    """Decoded scans of one size, given out in whole batches: images uint8 [N, 1, S, S], labels [N], indices [N].

    With `boxes` [n, 4] (see `load_boxes`) a second channel holds the mask of each picture's box, 255 inside.
    """

    def __init__(self, pixels: np.ndarray, labels: np.ndarray, size: int, boxes: np.ndarray | None = None):
        self.pixels, self.labels = _resize(torch.tensor(pixels)[:, None], size), torch.tensor(labels)
        self.boxes = None if boxes is None else torch.tensor(boxes)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: list[int]) -> Batch:
        chosen = torch.tensor(indices)
        pixels = self.pixels[chosen]
        if self.boxes is not None:
            masks = box_masks(self.boxes[chosen], pixels.shape[-1]).mul(255).round().byte()
            pixels = torch.cat([pixels, masks], dim=1)
        return pixels, self.labels[chosen], chosen


class EpochSampler:
    """Yields the indices of one epoch in an order that depends on `seed` and `epoch` alone.

    With `one_per_picture` an epoch holds one picture of each duplicate group, another one each time.
    """

    def __init__(self, indices: np.ndarray, groups: np.ndarray, one_per_picture: bool, seed: int):
        self.indices, self.seed, self.epoch = indices, seed, 0
        self.groups = groups[indices] if one_per_picture else np.arange(len(indices))

    def __len__(self) -> int:
        return len(np.unique(self.groups))

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.indices))
        first_of_group = np.unique(self.groups[order], return_index=True)[1]
        return iter(self.indices[order[np.sort(first_of_group)]].tolist())


class ToInput:
    """Turns float32 grey images [N, 1, S, S] in [0, 1] into the model's normalised channels-last input."""

    def __init__(self, preprocessing: Preprocessing, device: torch.device):
        self.mean = torch.tensor(preprocessing.mean, device=device).view(1, 3, 1, 1)
        self.std = torch.tensor(preprocessing.std, device=device).view(1, 3, 1, 1)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)


def train_loader(dataset: ScanDataset, sampler: EpochSampler, batch_size: int) -> DataLoader:
    """Return full batches only: a last batch of one would break batch normalisation."""
    batch_size = min(batch_size, len(sampler))
    return DataLoader(dataset, batch_size=batch_size, sampler=sampler, collate_fn=_as_it_is, drop_last=True)


def evaluation_loader(dataset: ScanDataset, indices: Sequence[int], batch_size: int) -> DataLoader:
    """Return every index once, in order."""
    return DataLoader(dataset, batch_size=batch_size, sampler=list(map(int, indices)), collate_fn=_as_it_is)


def _as_it_is(batch: Batch) -> Batch:
    return batch


def _resize(pixels: torch.Tensor, size: int) -> torch.Tensor:
    if size == pixels.shape[-1]:
        return pixels
    parts = (F.interpolate(part.float(), (size, size), mode="bicubic", antialias=True) for part in pixels.split(512))
    return torch.cat([part.round().clamp(0, 255).byte() for part in parts])
