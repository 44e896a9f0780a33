"""An uploaded picture becomes what the model sees; what cannot be read is refused with a sentence."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from timm.data.transforms import str_to_pil_interp

# Pillow opens a phone's MPO as "JPEG"; naming "MPO" here makes it raise KeyError for every format that follows.
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
FORMATS_TEXT = "PNG, JPEG, TIFF, BMP or WebP"
MAX_FILE_BYTES = 20 * 2**20
MAX_PIXELS = 50_000_000
MIN_SIDE = 32
MAX_ASPECT_RATIO = 4
# Two thousandths of the pixels may be brighter than white: a single hot pixel must not darken a raw scan.
WHITE_PERCENTILE = 99.8
# White of pictures whose brightness was already set for a screen: fractions, 8 bit and 16 bit.
DISPLAY_WHITES = (1, 255, 65535)
ABSURD_VALUE = 1e30

# What people have at hand instead of a picture: (offset, first bytes, name).
OTHER_FILES = (
    (128, b"DICM", "a DICOM file"),
    (344, b"n+1\0", "a NIfTI volume"),
    (0, b"\x1f\x8b", "a compressed file"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"%PDF", "a PDF document"),
    (0, b"GIF8", "a GIF"),
    (4, b"ftyp", "a HEIC photo or a film"),
    (0, b"<svg", "an SVG drawing"),
    (0, b"<?xml", "an SVG drawing"),
)
DAMAGED_TEXT = "The file is damaged or cut off. Export or download it again and try once more."
TOO_LARGE_TEXT = (
    f"The picture has more than {MAX_PIXELS // 10**6} million pixels. Scale it down: 1,000 × 1,000 is plenty."
)


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
    (laid on black), palette or CMYK. Deeper than 8 bit stays as it is where it was made for a screen (see
    `DISPLAY_WHITES`); raw values are windowed: the darkest is black, the 99.8th percentile white.
    Raises `UnreadableImage`.
    """
    path = None if isinstance(image, Image.Image) else Path(image)
    try:
        if path is None:
            return _grey(image)
        _check_file(path)
        # Given the path, Pillow 12 maps uncompressed TIFFs into memory and scrambles those with an orientation tag.
        with path.open("rb") as file, Image.open(file, formats=FORMATS) as opened:
            return _grey(opened)
    except UnreadableImage:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImage(TOO_LARGE_TEXT) from error
    except UnidentifiedImageError as error:
        raise UnreadableImage(_not_a_picture_text(path)) from error
    except Exception as error:  # on damaged bytes Pillow's decoders raise nearly anything
        raise UnreadableImage(DAMAGED_TEXT) from error


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


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise UnreadableImage(f"There is no file called {path.name}. Choose a picture of one MRI slice.")
    size = path.stat().st_size
    if size == 0:
        raise UnreadableImage("The file is empty. Export the slice again and try once more.")
    if size > MAX_FILE_BYTES:
        raise UnreadableImage(
            f"The file has {size / 2**20:.0f} MB; at most {MAX_FILE_BYTES / 2**20:.0f} MB can be read. "
            "Save one slice, not a whole series, or make the picture smaller."
        )


def _not_a_picture_text(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(352)
    kinds = (name for offset, start, name in OTHER_FILES if head[offset:].startswith(start))
    return (
        f"This is {next(kinds, 'not a picture, or a damaged one')}. "
        f"Save one slice as {FORMATS_TEXT} and try that file instead."
    )


def _grey(image: Image.Image) -> Image.Image:
    _check_shape(image)
    image.load()
    white_is_zero = getattr(image, "tag_v2", {}).get(262) == 0  # Pillow inverts such a TIFF at 8 bit only
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        grey = _grey_from_deep(np.asarray(image, dtype=np.float32))
        return ImageOps.invert(grey) if white_is_zero else grey
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        black = Image.new("RGBA", layer.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, layer)
    # Through RGB, because palette and CMYK pictures have no direct way to grey that all Pillow versions share.
    return image if image.mode == "L" else image.convert("RGB").convert("L")


def _check_shape(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UnreadableImage(TOO_LARGE_TEXT)
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
    if not (np.abs(values) < ABSURD_VALUE).all():  # nor is NaN
        raise UnreadableImage("The picture holds values that are not numbers. Export the slice again as 8 or 16 bit.")
    black, white = _window(values)
    scaled = (values - black) / ((white - black) or 1.0)
    return Image.fromarray((scaled.clip(0, 1) * 255).round().astype(np.uint8))


def _window(values: np.ndarray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    bright = float(np.percentile(values, WHITE_PERCENTILE))
    for white in DISPLAY_WHITES:
        if low >= 0 and high <= white and bright > white / 4:
            return 0.0, float(white)
    return low, bright
