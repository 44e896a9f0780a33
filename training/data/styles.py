"""Random looks for a batch of scans, whatever their class: what one source alone shows must tell nothing.

All randomness comes from torch's global generator of the CPU, which the training loop seeds before every batch.
"""

import torch
import torch.nn.functional as F

RANDOM_CONVOLUTION, SKULL_STRIPPED = 0.5, 0.12
# A brain fills about this share of the framed head's half width; the rest is scalp and bone.
BRAIN = (0.74, 0.9)
# Where stripping would cut away more than this share of a tumor's box, the scan stays as it is.
LOST_TUMOR = 0.2


def restyle(images: torch.Tensor, strength: float = 1.0) -> torch.Tensor:
    """Return a changed copy of `images`, float32 [N, 1, H, W] in [0, 1]; `strength` is that of the probabilities.

    Further channels are masks: they move along with the picture and keep their values.
    """
    if strength == 0:
        return images
    images, masks = images.split([1, images.shape[1] - 1], dim=1)
    stripped = strip_skull(torch.cat([images, masks], dim=1))
    kept = torch.ones(len(images), dtype=torch.bool)
    if masks.shape[1]:
        before, after = masks.flatten(1).sum(1), stripped[:, 1:].flatten(1).sum(1) / ZOOMED_AREA
        kept = (after >= (1 - LOST_TUMOR) * before).cpu()
    chosen = ((torch.rand(len(images)) < SKULL_STRIPPED * strength) & kept).view(-1, 1, 1, 1).to(images.device)
    images, masks = torch.where(chosen, stripped, torch.cat([images, masks], dim=1)).split([1, masks.shape[1]], dim=1)
    chosen = (torch.rand(len(images), 1, 1, 1) < RANDOM_CONVOLUTION * strength).to(images.device)
    return torch.cat([torch.where(chosen, random_convolution(images), images), masks], dim=1)


# Stripping makes the head smaller, and the frame then comes closer: the same zoom for all, so that masks stay exact.
ZOOM = 1.15
ZOOMED_AREA = ZOOM**2


def strip_skull(images: torch.Tensor) -> torch.Tensor:
    """Blacken all outside a rough ellipse of the size of the brain, and zoom in as the frame would."""
    n, _, height, width = images.shape
    y = torch.linspace(-1, 1, height).view(1, height, 1)
    x = torch.linspace(-1, 1, width).view(1, 1, width)
    angle = torch.atan2(y, x)
    # The head's own shape: how far it reaches left-right and up-down in its square frame.
    lit = (images[:, 0] > 0.06).float().cpu()
    half_width = (lit.amax(dim=1) * x[:, 0].abs()).amax(dim=1).view(n, 1, 1).clamp(min=0.3)
    half_height = (lit.amax(dim=2) * y[:, :, 0].abs()).amax(dim=1).view(n, 1, 1).clamp(min=0.3)
    reach = torch.empty(n, 1, 1).uniform_(*BRAIN)
    for waves in (2, 3, 5):
        amount, phase = torch.randn(n, 1, 1) * 0.02, torch.rand(n, 1, 1) * 6.283
        reach = reach + amount * torch.cos(waves * angle + phase)
    radius = ((x / half_width) ** 2 + (y / half_height) ** 2).sqrt()
    kept = (radius < reach).float()[:, None].to(images.device)
    matrix = torch.tensor([[1 / ZOOM, 0, 0], [0, 1 / ZOOM, 0]]).expand(n, 2, 3).to(images.device)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images * kept, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def random_convolution(images: torch.Tensor, layers: int = 3, channels: int = 2) -> torch.Tensor:
    """Pass each image through its own small random network and mix the result with the image.

    Without biases, black stays black, so that the background gives nothing away. Source: global intensity non-linear
    augmentation (Ouyang et al. 2021, arXiv 2111.12525), after random convolutions (Xu et al. 2020, arXiv 2007.13003).
    """
    n, _, height, width = images.shape
    x, inputs = images.reshape(1, n, height, width), 1
    for layer in range(layers):
        outputs = 1 if layer == layers - 1 else channels
        size = 1 if torch.rand(()) < 0.5 else 3
        weight = torch.randn(n * outputs, inputs, size, size).to(images.device)
        x = F.conv2d(x, weight, padding=size // 2, groups=n)
        if layer < layers - 1:
            x = F.leaky_relu(x, 0.2)
        inputs = outputs
    x = x.view(n, 1, height, width)
    lit = (images > 0.04).float()
    mean = (x * lit).sum(dim=(1, 2, 3), keepdim=True)
    x = x * torch.where(mean < 0, -1.0, 1.0) * lit
    # Sometimes part of the tissue comes out below zero: lift it, so that dark and bright change places.
    low, high = _levels(x, 0.02, 0.995)
    x = (x - low) * lit / (high - low).clamp(min=1e-4)
    share = torch.rand(n, 1, 1, 1).to(images.device)
    return (share * x + (1 - share) * images).clamp(0, 1)


def _levels(images: torch.Tensor, *shares: float) -> list[torch.Tensor]:
    """Return quantiles of each image, [N, 1, 1, 1] each, of every third pixel, because sorting all is slow."""
    values = images[..., ::3, ::3].flatten(1).sort(dim=1).values
    return [values[:, round(share * (values.shape[1] - 1))].view(-1, 1, 1, 1) for share in shares]
