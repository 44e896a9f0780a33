"""Augmentation of a batch that keeps the diagnosis: pose, intensity, sharpness, compression, hidden patches.

The scans come from several scanners and sequences, and those without a tumor from others than the rest. Strong changes
of intensity keep the model from recognizing classes by the appearance of their source.
All random numbers come from torch's global CPU generator, which the training loop seeds before every batch.
"""

import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image


def augment(images: torch.Tensor, strength: float = 1.0) -> torch.Tensor:
    """Return randomly changed images.

    Args:
        images: float32 [N, 1 or more, H, W] in [0, 1]. Channels after the first one are masks: they move with the
            image and keep their values.
        strength: 0 changes nothing, 1 is usual.

    Returns:
        float32 of the same shape, the image in [0, 1].
    """
    if strength == 0:
        return images
    images, masks = pose(images, strength).split([1, images.shape[1] - 1], dim=1)
    images = sometimes(0.3, images, lambda x: resolution(x, strength))
    images = sometimes(0.8, images, lambda x: tone_curve(x, strength))
    images = sometimes(0.5, images, lambda x: bias_field(x, strength))
    images = sometimes(0.3, images, lambda x: noise(x, strength))
    images = sometimes(0.25, images, lambda x: compression(x, strength))
    return torch.cat([sometimes(0.5, images, hide_patches).clamp(0, 1), masks], dim=1)


def sometimes(probability: float, images: torch.Tensor, change) -> torch.Tensor:
    """Apply `change` to each image with the given probability."""
    chosen = (torch.rand(len(images), 1, 1, 1) < probability).to(images.device)
    return torch.where(chosen, change(images), images)


def pose(images: torch.Tensor, strength: float) -> torch.Tensor:
    """Mirror left-right, rotate by up to 15°, scale each side by up to 15 % and shift by up to 6 %.

    Never upside down, because scans never are.
    """
    n = len(images)
    angle = _uniform(n, -15, 15).mul(strength).deg2rad()
    zoom = torch.exp(_uniform(2 * n, -0.15, 0.15).mul(strength)).view(2, n)
    mirror = torch.where(torch.rand(n) < 0.5, -1.0, 1.0)
    shift = _uniform(2 * n, -0.12, 0.12).mul(strength).view(2, n)  # the grid runs from -1 to 1, so 0.12 is 6 %
    matrix = torch.stack(
        [
            torch.stack([mirror * zoom[0] * angle.cos(), -zoom[0] * angle.sin(), shift[0]], dim=1),
            torch.stack([mirror * zoom[1] * angle.sin(), zoom[1] * angle.cos(), shift[1]], dim=1),
        ],
        dim=1,
    ).to(images.device)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def tone_curve(images: torch.Tensor, strength: float, points: int = 6) -> torch.Tensor:
    """Map intensities through a random curve per image: gamma, then an offset at each of `points` levels.

    Most curves are gentle; a few make bright tissue dark, as another sequence does. Black stays black, so that the
    background does not reveal the change.
    """
    n = len(images)
    gamma = torch.exp(_uniform(n, -0.5, 0.5).mul(strength)).view(n, 1, 1, 1).to(images.device)
    images = images.clamp(0, 1) ** gamma
    deviation = torch.rand(n, 1).square() * 0.6 * strength
    levels = torch.linspace(0, 1, points) + deviation * _uniform(n * points, -1, 1).view(n, points)
    levels = torch.cat([torch.zeros(n, 1), levels[:, 1:]], dim=1).to(images.device)
    position = images.flatten(1) * (points - 1)
    lower = position.floor().clamp(0, points - 2).long()
    low, high = levels.gather(1, lower), levels.gather(1, lower + 1)
    return (low + (high - low) * (position - lower)).view_as(images)


def bias_field(images: torch.Tensor, strength: float) -> torch.Tensor:
    """Multiply by a smooth random field, as an uneven receiver coil does."""
    coarse = torch.randn(len(images), 1, 3, 3).mul(0.25 * strength).to(images.device)
    return images * torch.exp(F.interpolate(coarse, images.shape[-2:], mode="bicubic", align_corners=True))


def resolution(images: torch.Tensor, strength: float) -> torch.Tensor:
    """Downsample the batch by at most half and upsample it again: sources differ in sharpness."""
    factor = 1 - 0.5 * strength * torch.rand(()).item()
    side = max(16, round(images.shape[-1] * factor))
    small = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
    return F.interpolate(small, images.shape[-2:], mode="bilinear")


def noise(images: torch.Tensor, strength: float) -> torch.Tensor:
    """Add Gaussian noise of up to 4 % of the range."""
    deviation = torch.rand(len(images), 1, 1, 1).mul(0.04 * strength)
    return images + (deviation * torch.randn(images.shape)).to(images.device)


def compression(images: torch.Tensor, strength: float) -> torch.Tensor:
    """Save each image as JPEG and read it again, with a quality from 95 down to 35: sources differ in their blocks."""
    qualities = (95 - 60 * strength * torch.rand(len(images))).round().int().clamp(min=10).tolist()
    pixels = images.clamp(0, 1).mul(255).round().byte().cpu().numpy()[:, 0]
    changed = np.stack([_saved_as_jpeg(image, quality) for image, quality in zip(pixels, qualities, strict=True)])
    return torch.from_numpy(changed)[:, None].to(images.device).float() / 255


def _saved_as_jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def hide_patches(images: torch.Tensor, grid: int = 8, share: float = 0.12) -> torch.Tensor:
    """Set about `share` of the squares of a grid to black, so that no single region decides.

    Reference: Singh and Lee 2017, arXiv 1704.04232 (hide-and-seek).
    """
    kept = (torch.rand(len(images), 1, grid, grid) >= share).float().to(images.device)
    return images * F.interpolate(kept, images.shape[-2:], mode="nearest")


def _uniform(n: int, low: float, high: float) -> torch.Tensor:
    return torch.empty(n).uniform_(low, high)
