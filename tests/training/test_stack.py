"""Images that stay on the disk, with the numbers that they have in memory."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from training.data import duplicate_groups as duplicates
from training.data.stack import ImageStack, Resized

SIDE = 4


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (7, SIDE, SIDE), dtype=np.uint8)


@pytest.fixture
def stack(images):
    """The images in two chunks, one of them sliced, with rows of unreadable files in between."""
    first = pa.array([b"x" * 16, images[0].tobytes(), b"", images[1].tobytes()], pa.binary())[1:]
    second = pa.array([b"", *(image.tobytes() for image in images[2:])], pa.large_binary())
    parts = [*ImageStack.of_column(pa.chunked_array([first]), SIDE).parts]
    return ImageStack([*parts, *ImageStack.of_column(pa.chunked_array([second]), SIDE).parts], SIDE)


@pytest.mark.parametrize(
    "chosen",
    [
        0,
        3,
        -1,
        np.int64(6),
        slice(1, 5),
        slice(None, None, -2),
        [5, 0, 0],
        np.array([], dtype=int),
        np.arange(7) % 2 == 0,
    ],
)
def test_it_is_indexed_like_an_array(stack, images, chosen):
    np.testing.assert_array_equal(stack[chosen], images[chosen])


def test_it_is_read_like_an_array(stack, images):
    assert (len(stack), stack.shape) == (7, images.shape)
    np.testing.assert_array_equal(np.stack([*stack]), images)
    np.testing.assert_array_equal(np.asarray(stack), images)
    np.testing.assert_array_equal(np.asarray(ImageStack.joined([stack, stack])), np.concatenate([images, images]))
    for missing in (7, -8):
        with pytest.raises(IndexError):
            stack[missing]
    assert len(ImageStack.of_column(pa.chunked_array([pa.array([b"", b""])]), SIDE)) == 0


def test_one_image_is_resized_like_several(stack):
    resized = Resized(stack, 3)
    several = resized[torch.tensor([2, 6])]
    assert several.shape == (2, 1, 3, 3)
    assert torch.equal(resized[6], several[1])
    assert torch.equal(Resized(stack, SIDE)[2][0], torch.tensor(stack[2]))


def test_copies_are_found_on_the_disk_as_in_memory(monkeypatch):
    random = np.random.default_rng(0)
    images = np.repeat(random.integers(0, 256, (300, 96, 96), dtype=np.uint8), 2, axis=0)
    images[1::2] = images[1::2, :, ::-1]  # mirrored copies
    images[[4, 9]] = 17  # constant
    in_memory = duplicates.duplicate_groups(images)
    monkeypatch.setattr(duplicates, "IN_MEMORY", 0)
    np.testing.assert_array_equal(duplicates.duplicate_groups(ImageStack([images[:100], images[100:]], 96)), in_memory)
    assert len(np.unique(in_memory)) == 301
