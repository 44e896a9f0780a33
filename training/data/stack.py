"""Many gray images of one size that need not fit into memory: they stay in memory-mapped files until they are used."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import index as as_index

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F


class ImageStack:
    """Gray images uint8 [n, side, side], read from their parts when they are indexed.

    `parts` uint8 [k, side, side] may be views of memory-mapped files: those take no memory that the system could not
    take back, and processes on one machine share it.
    """

    def __init__(self, parts: Sequence[np.ndarray], side: int):
        self.parts = [part for part in parts if len(part)]
        self.side = side
        self._ends = np.cumsum([len(part) for part in self.parts], dtype=np.int64)

    @classmethod
    def of_column(cls, column: pa.ChunkedArray, side: int) -> "ImageStack":
        """Return the images in a column of raw bytes without copying them; rows without any byte are left out."""
        return cls([_images_of(chunk, side) for chunk in column.chunks], side)

    @classmethod
    def joined(cls, stacks: Sequence["ImageStack"]) -> "ImageStack":
        """Return the images of several stacks of one size as one."""
        return cls([part for stack in stacks for part in stack.parts], stacks[0].side)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of all images together."""
        return len(self), self.side, self.side

    def __len__(self) -> int:
        return int(self._ends[-1]) if self.parts else 0

    def __getitem__(self, chosen) -> np.ndarray:
        """Return one image [side, side], not to be written to, or a copy of several: by indices, a mask or a slice."""
        if np.ndim(chosen) == 0 and not isinstance(chosen, slice):
            return self._single(as_index(chosen))
        indices = np.arange(len(self))[chosen]
        images = np.empty((len(indices), self.side, self.side), dtype=np.uint8)
        for row, index in enumerate(indices.tolist()):
            images[row] = self._single(index)
        return images

    def __iter__(self) -> Iterator[np.ndarray]:
        for part in self.parts:
            yield from part

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        """Return all images in memory."""
        return np.asarray(self[:], dtype=dtype)

    def _single(self, index: int) -> np.ndarray:
        index = range(len(self))[index]  # from the end, where it is negative
        part = int(np.searchsorted(self._ends, index, side="right"))
        return self.parts[part][index - int(self._ends[part])]


def _images_of(chunk: pa.BinaryArray, side: int) -> np.ndarray:
    _, offsets, content = chunk.buffers()
    kind = np.int64 if pa.types.is_large_binary(chunk.type) else np.int32
    ends = np.frombuffer(offsets, kind)[chunk.offset : chunk.offset + len(chunk) + 1]
    if content is None or ends[0] == ends[-1]:
        return np.empty((0, side, side), dtype=np.uint8)
    return np.frombuffer(content, np.uint8)[ends[0] : ends[-1]].reshape(-1, side, side)


@dataclass(frozen=True)
class Resized:
    """Scans in another size, resized when they are indexed: uint8 [1, S, S] for one, [N, 1, S, S] for several."""

    scans: ImageStack | np.ndarray
    size: int

    def __getitem__(self, chosen: int | torch.Tensor) -> torch.Tensor:
        if isinstance(chosen, int):
            return self[torch.tensor([chosen])][0]
        pixels = torch.from_numpy(self.scans[chosen.numpy()])[:, None]
        if self.size == pixels.shape[-1]:
            return pixels
        resized = F.interpolate(pixels.float(), (self.size, self.size), mode="bicubic", antialias=True)
        return resized.round().clamp(0, 255).byte()
