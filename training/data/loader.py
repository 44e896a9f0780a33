"""Batches straight from the decoded scans, which stay on the disk: no worker processes, nothing is decoded again."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, Dataset, Subset

from brain_xai.preprocess import Preprocessing
from training.data.boxes import box_masks
from training.data.counterfactuals import Counterfactuals
from training.data.pool import Pool
from training.data.sources import DataError
from training.data.stack import ImageStack, Resized
from training.learning.settings import TrainConfig


class Batch(NamedTuple):
    """Images of one size with their labels.

    `pixels` uint8 [N, 1, S, S], with a second channel for the box masks (255 inside) if there are boxes;
    `labels` int64 [N] label ids; `indices` int64 [N] of the scans.
    """

    pixels: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor


class ScanDataset(Dataset):
    """Decoded scans of one size, served in whole batches.

    With `boxes` [n, 4] (see `load_boxes`), a second channel holds the mask of each image's box.
    """

    def __init__(self, pixels: ImageStack | np.ndarray, labels: np.ndarray, size: int, boxes: np.ndarray | None = None):
        self.pixels, self.labels = Resized(pixels, size), torch.tensor(labels)
        self.boxes = None if boxes is None else torch.tensor(boxes)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: list[int]) -> Batch:
        chosen = torch.as_tensor(indices)
        pixels = self.pixels[chosen]
        if self.boxes is not None:
            masks = box_masks(self.boxes[chosen], pixels.shape[-1]).mul(255).round().byte()
            pixels = torch.cat([pixels, masks], dim=1)
        return Batch(pixels, self.labels[chosen], chosen)


class EpochSampler:
    """Yields the indices of one epoch in an order that depends only on `seed` and `epoch`.

    With `one_per_picture`, an epoch holds one image of each duplicate group, drawn anew for each epoch.
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


class BalancedSampler:
    """Yields `length` indices an epoch, drawn so that no kind of scan is seen far more often than the others.

    `cells` int64 are the kind (label and source) of each of `indices`. The share of a kind grows with the square root
    of the number of its distinct images; within it, every image comes about equally often. The order depends only on
    `seed` and `epoch`.
    """

    def __init__(self, indices: np.ndarray, cells: np.ndarray, groups: np.ndarray, length: int, seed: int):
        self.indices, self.seed, self.epoch = indices, seed, 0
        self._members = [np.flatnonzero(cells == cell) for cell in np.unique(cells)]
        self._groups = groups[indices]
        distinct = np.sqrt([len(np.unique(self._groups[members])) for members in self._members])
        self.quotas = np.maximum(np.floor(length * distinct / distinct.sum()), 1).astype(int)

    def __len__(self) -> int:
        return int(self.quotas.sum())

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng([self.seed, self.epoch])
        drawn = []
        for members, quota in zip(self._members, self.quotas, strict=True):
            rounds = []
            while sum(map(len, rounds)) < quota:
                order = random.permutation(members)
                rounds.append(order[np.sort(np.unique(self._groups[order], return_index=True)[1])])
            drawn.append(np.concatenate(rounds)[:quota])
        return iter(self.indices[random.permutation(np.concatenate(drawn))].tolist())


class Normalize(torch.nn.Module):
    """Turns gray images float32 [N, 1, S, S] in [0, 1] into a model's normalized channels-last input [N, 3, S, S]."""

    def __init__(self, preprocessing: Preprocessing):
        super().__init__()
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(preprocessing.std).view(1, 3, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Loaders:
    """The prepared batches of a run.

    `training` and `counterfactuals` are by image size; `kinds` is the validation on other sources by kind of scan;
    `sampler` orders the training images.
    """

    training: Mapping[int, DataLoader]
    validation: DataLoader
    kinds: Mapping[str, DataLoader]
    sampler: EpochSampler | BalancedSampler
    counterfactuals: Mapping[int, Counterfactuals]

    def of_epoch(self, epoch: int, size: int) -> DataLoader:
        """Return the training batches of one epoch."""
        self.sampler.epoch = epoch
        return self.training[size]


def build_loaders(settings: TrainConfig, pool: Pool, validation: np.ndarray, accelerator: Accelerator) -> Loaders:
    """Return the batches of this process; raises `DataError` if a process would get none.

    `validation` int64 are the indices of the validation split.
    """
    sizes = settings.epoch_sizes
    sampler = make_sampler(settings, pool)
    datasets = {size: ScanDataset(pool.pixels, pool.labels, size, pool.boxes) for size in set(sizes)}
    batch_size = min(settings.batch_size, len(sampler))
    batches, processes = len(sampler) // batch_size, accelerator.num_processes
    if batches < processes:
        raise DataError(
            f"{len(sampler)} training images make {batches} batches of {batch_size}, too few for {processes} processes."
            f" Use a --batch-size of at most {len(sampler) // processes}, or fewer processes."
        )

    def validating(indices: np.ndarray) -> DataLoader:
        return accelerator.prepare(_loader(Subset(datasets[sizes[-1]], indices), settings.evaluation_batch_size))

    return Loaders(
        training={
            # Full batches only: batch normalization fails on a last batch of one.
            size: accelerator.prepare(_loader(dataset, batch_size, sampler=sampler, drop_last=True))
            for size, dataset in datasets.items()
        },
        validation=validating(validation),
        kinds={kind: validating(indices) for kind, indices in pool.validation.items()},
        sampler=sampler,
        counterfactuals={size: Counterfactuals(dataset.pixels, pool) for size, dataset in datasets.items()}
        if settings.counterfactuals
        else {},
    )


def make_sampler(settings: TrainConfig, pool: Pool) -> EpochSampler | BalancedSampler:
    """Return what orders the training images: balanced over kinds of scans where there are several sources."""
    if pool.cells is None:
        return EpochSampler(pool.train, pool.groups, settings.one_per_picture, settings.seed)
    length = len(np.unique(pool.groups[pool.train]))
    return BalancedSampler(pool.train, pool.cells, pool.groups, length, settings.seed)


def _loader(dataset: Dataset, batch_size: int, **more) -> DataLoader:
    return DataLoader(dataset, batch_size=batch_size, collate_fn=_identity, **more)


def _identity(batch: Batch) -> Batch:
    return batch
