"""Augmentation: what must change, and what must never change."""

import pytest
import torch

from training.data.augment import augment, bias_field, compression, hide_patches, noise, pose, resolution, tone_curve


@pytest.fixture
def images():
    torch.manual_seed(0)
    return torch.rand(16, 1, 32, 32)


def test_strength_zero_changes_nothing(images):
    assert torch.equal(augment(images, 0), images)


def test_same_seed_same_change_and_range_is_kept(images):
    torch.manual_seed(5)
    first = augment(images)
    torch.manual_seed(5)
    second = augment(images)
    assert torch.equal(first, second)
    assert not torch.equal(first, augment(images))
    assert first.min() >= 0
    assert first.max() <= 1


def test_heads_are_mirrored_left_right_but_never_upside_down():
    images = torch.zeros(200, 1, 32, 32)
    images[:, :, 4:12, 4:12] = 1  # top left
    torch.manual_seed(0)
    moved = pose(images, 1.0)
    mass = moved.sum(dim=(1, 2, 3))
    in_top = moved[:, :, :16].sum(dim=(1, 2, 3)) / mass
    in_left = moved[:, :, :, :16].sum(dim=(1, 2, 3)) / mass
    assert in_top.min() > 0.7
    mirrored = (in_left < 0.5).float().mean().item()
    assert 0.4 < mirrored < 0.6


def test_pose_without_strength_only_mirrors(images):
    torch.manual_seed(0)
    moved = pose(images, 0.0)
    for before, after in zip(images, moved, strict=True):
        unchanged = torch.allclose(after, before, atol=1e-5)
        assert unchanged or torch.allclose(after, before.flip(-1), atol=1e-5)


def test_black_background_stays_black():
    black = torch.zeros(8, 1, 32, 32)
    assert torch.equal(tone_curve(black, 1.0), black)
    assert torch.equal(bias_field(black, 1.0), black)


def test_tone_curve_is_a_function_of_intensity(images):
    """Two pixels of equal gray stay equal: a curve, not noise."""
    images[:, :, 0, 0] = images[:, :, 5, 5]
    changed = tone_curve(images, 1.0)
    assert torch.allclose(changed[:, :, 0, 0], changed[:, :, 5, 5])
    assert not torch.allclose(changed, images, atol=0.01)


def test_bias_field_is_smooth():
    torch.manual_seed(0)
    field = bias_field(torch.ones(4, 1, 64, 64), 1.0)
    steps = (field[:, :, 1:] - field[:, :, :-1]).abs().max()
    assert 0 < steps < 0.2 * (field.max() - field.min())


def test_resolution_blurs_and_keeps_the_shape(images):
    torch.manual_seed(1)
    blurred = resolution(images, 1.0)
    assert blurred.shape == images.shape
    assert blurred.std() < images.std()


def test_compression_changes_a_smooth_image_little_and_more_with_strength():
    smooth = torch.linspace(0, 1, 64).expand(8, 1, 64, 64).clone()
    noisy = torch.rand(8, 1, 64, 64)
    torch.manual_seed(0)
    assert (compression(smooth, 1.0) - smooth).abs().max() < 0.05
    torch.manual_seed(0)
    weak = (compression(noisy, 0.0) - noisy).abs().mean()
    torch.manual_seed(0)
    assert weak < (compression(noisy, 1.0) - noisy).abs().mean() < 0.3


def test_noise_has_a_deviation_of_up_to_four_percent():
    torch.manual_seed(0)
    deviation = (noise(torch.full((200, 1, 32, 32), 0.5), 1.0) - 0.5).std(dim=(1, 2, 3))
    # Uniform between 0 and 4 %; the deviation of 1024 pixels is known to about 2 % of itself.
    assert 0.036 < deviation.max() < 0.044
    assert deviation.min() < 0.002
    assert deviation.mean().item() == pytest.approx(0.02, abs=0.003)


def test_hidden_patches_are_black_squares():
    torch.manual_seed(0)
    hidden = hide_patches(torch.ones(500, 1, 32, 32), grid=8, share=0.12)
    squares = hidden.view(500, 8, 4, 8, 4)
    assert torch.equal(squares.amax(dim=(2, 4)), squares.amin(dim=(2, 4)))
    assert 0.10 < 1 - hidden.mean().item() < 0.14
