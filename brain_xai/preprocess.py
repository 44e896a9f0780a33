"""An uploaded picture becomes what the model sees; what cannot be read is refused with a sentence."""

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from timm.data.transforms import str_to_pil_interp

FORMATS = ("PNG", "JPEG", "MPO", "TIFF", "BMP", "WEBP")
FORMATS_TEXT = "PNG, JPEG, TIFF, BMP or WebP"
MAX_FILE_BYTES = 20 * 2**20
MAX_PIXELS = 50_000_000
MIN_SIDE = 32
MAX_ASPECT_RATIO = 4
# Two thousandths of the pixels may be brighter than white: a single hot pixel must not darken a 16-bit scan.
WHITE_PERCENTILE = 99.8


class UnreadableImage(ValueError):
    """The picture cannot be used; the message says what is wrong and what to do."""


@dataclass(frozen=True)
class Preprocessing:
    """What a checkpoint was trained on: `size` in pixels (height, width), `mean` and `std` per channel of [0, 1]."""

    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"


@dataclass(frozen=True)
class ModelInput:
    """`pixel_values` float32 [1, 3, H, W], normalised; `view` the RGB picture of W x H pixels the model really sees."""

    pixel_values: torch.Tensor
    view: Image.Image


def read_image(image: Image.Image | str | os.PathLike) -> Image.Image:
    """Return the picture upright and grey (mode "L", 8 bit, any size).

    `image` is a PIL image or a path to a PNG, JPEG, TIFF, BMP or WebP file: 1, 8, 16 or 32 bit; grey, RGB, RGBA
    (laid on black), palette or CMYK. Brighter than 8 bit is scaled so that the darkest pixel is black and the
    99.8th percentile white. Raises `UnreadableImage`.
    """
    if isinstance(image, Image.Image):
        return _grey(image)
    path = Path(image)
    if not path.is_file():
        raise UnreadableImage(f"There is no file called {path.name}. Choose a picture of one MRI slice.")
    _check_file_size(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # we refuse large pictures ourselves
            with Image.open(path, formats=FORMATS) as opened:
                return _grey(opened)
    except Image.DecompressionBombError as error:
        raise UnreadableImage(_too_large_text()) from error
    except UnidentifiedImageError as error:
        raise UnreadableImage(
            f"This file is not a picture that can be read. Save the slice as {FORMATS_TEXT} and try again."
        ) from error


def to_view(grey: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """Resize a grey picture to the model's size, as RGB: height and width are scaled apart, nothing is cut off."""
    height, width = preprocessing.size
    return grey.resize((width, height), str_to_pil_interp(preprocessing.interpolation)).convert("RGB")


def to_pixel_values(view: Image.Image, preprocessing: Preprocessing) -> torch.Tensor:
    """Return the view as the model's normalised tensor, float32 [1, 3, H, W]."""
    pixels = torch.from_numpy(np.array(view, dtype=np.float32)).permute(2, 0, 1) / 255
    mean = torch.tensor(preprocessing.mean).view(3, 1, 1)
    std = torch.tensor(preprocessing.std).view(3, 1, 1)
    return ((pixels - mean) / std)[None].contiguous()


def prepare(image: Image.Image | str | os.PathLike, preprocessing: Preprocessing) -> ModelInput:
    """Read an image and bring it into the form the model sees; raises `UnreadableImage`."""
    view = to_view(read_image(image), preprocessing)
    return ModelInput(to_pixel_values(view, preprocessing), view)


def _check_file_size(path: Path) -> None:
    size = path.stat().st_size
    if size == 0:
        raise UnreadableImage("The file is empty. Export the slice again and try once more.")
    if size > MAX_FILE_BYTES:
        raise UnreadableImage(
            f"The file has {size / 2**20:.0f} MB; at most {MAX_FILE_BYTES / 2**20:.0f} MB can be read. "
            "Save one slice, not a whole series, or make the picture smaller."
        )


def _too_large_text() -> str:
    return f"The picture has more than {MAX_PIXELS / 1e6:.0f} million pixels. Scale it down (1,000 pixels is plenty)."


def _grey(image: Image.Image) -> Image.Image:
    _check_shape(image)
    try:
        image.load()
        image = ImageOps.exif_transpose(image)
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise UnreadableImage("The file is damaged or cut off. Export or download it again and try again.") from error
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        return _grey_from_deep(np.asarray(image, dtype=np.float32))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        black = Image.new("RGBA", layer.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, layer)
    # Through RGB, because palette and CMYK pictures have no direct way to grey that all Pillow versions share.
    return image if image.mode == "L" else image.convert("RGB").convert("L")


def _check_shape(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UnreadableImage(_too_large_text())
    if min(width, height) < MIN_SIDE:
        raise UnreadableImage(
            f"The picture has {width} × {height} pixels; a scan needs at least {MIN_SIDE} on each side. "
            "Use the picture in its full size."
        )
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise UnreadableImage(
            f"The picture has {width} × {height} pixels, a strip. Crop it to one slice that shows the whole head."
        )
    # A phone's MPO is a JPEG with extra views of the same picture, so its first frame is the picture.
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        raise UnreadableImage("The file holds several pictures or an animation. Save one slice as PNG and try again.")


def _grey_from_deep(values: np.ndarray) -> Image.Image:
    if not np.isfinite(values).all():
        raise UnreadableImage("The picture holds values that are not numbers. Export the slice again as 8 or 16 bit.")
    black, white = float(values.min()), float(np.percentile(values, WHITE_PERCENTILE))
    scaled = (values - black) / max(white - black, 1e-6)
    return Image.fromarray((scaled.clip(0, 1) * 255).round().astype(np.uint8))
