"""Read an image and bring it into the form the model sees. What cannot be read is refused with a sentence."""

import functools
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from timm.data.transforms import str_to_pil_interp

from brain_xai.framing import frame
from brain_xai.looks import Looks, look_at
from brain_xai.parts import check_exif, check_parts
from brain_xai.unreadable import UnreadableImage

# Pillow opens the MPO of a phone as "JPEG". Listing "MPO" makes it raise KeyError for every format that follows.
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
FORMATS_TEXT = "PNG, JPEG, TIFF, BMP or WebP"
MAX_FILE_BYTES = 20 * 2**20
MAX_PIXELS = 50_000_000
MIN_SIDE = 32
MAX_ASPECT_RATIO = 4
# Scans have 1,024 pixels on a side at most; a larger image is shown reduced to this, so that it takes no memory.
MAX_SHOWN_SIDE = 2048
# A part of an image: left, top, right, bottom in fractions of its width and height.
Part = tuple[float, float, float, float]
WHOLE: Part = (0.0, 0.0, 1.0, 1.0)
# Clip the brightest 0.2 % of the pixels of a raw scan, so that one hot pixel does not darken all others.
WHITE_PERCENTILE = 99.8
# The white of images whose brightness was already set for display: fractions, 8 bit and 16 bit.
DISPLAY_WHITES = (1, 255, 65535)
# Beyond this, a float is damage rather than a measurement.
MAX_VALUE = 1e30

# A pixel is colored if its channels differ by more than this; JPEG alone makes smaller differences.
COLOR_DIFFERENCE = 40
# Under this name the fraction of colored pixels travels with the image once it is gray.
COLOR_INFO = "color_share"

# Other files that people try: (offset, first bytes, name).
OTHER_FILES = (
    (0, b"\x1f\x8b", "a compressed file"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"%PDF", "a PDF document"),
    (0, b"GIF8", "a GIF"),
    (4, b"ftyp", "a HEIC photo or a video"),
    (0, b"<svg", "an SVG drawing"),
    (0, b"<?xml", "an SVG drawing"),
)
DAMAGED_TEXT = "The file is damaged or incomplete. Export or download it again, then retry."
TOO_LARGE_TEXT = (
    f"The image has more than {MAX_PIXELS // 10**6} million pixels. Scale it down: 1,000 × 1,000 is plenty."
)

# What every function that takes an image accepts: a PIL image, a NumPy array or a path.
ImageSource = Image.Image | np.ndarray | str | os.PathLike


@dataclass(frozen=True)
class Preprocessing:
    """How a checkpoint prepares its images.

    Attributes:
        size: Height and width of the model's input in pixels.
        mean: Mean per channel of values in [0, 1], which is subtracted.
        std: Standard deviation per channel of values in [0, 1], by which the result is divided.
        interpolation: Name of the resampling filter, as in timm.
        frame: Whether every image is cropped to the head and stretched first, see `brain_xai.framing.frame`.
    """

    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    frame: bool = False


@dataclass(frozen=True)
class ModelInput:
    """An image in the form the model sees.

    Attributes:
        pixel_values: Normalized, float32 [1, 3, H, W], on the CPU.
        view: The same image as people see it, RGB, W x H pixels.
        original: The whole image as it was read, upright, RGB, in its own size, but at most 2,048 pixels on a side.
        part: The part of the original that the view shows: left, top, right, bottom in fractions of width and height.
            It may reach beyond the original, below 0 or above 1, where the view was padded with black.
    """

    pixel_values: torch.Tensor
    view: Image.Image
    original: Image.Image
    part: Part

    @functools.cached_property
    def looks(self) -> Looks:
        """What the warnings need to know of the image beside the model's features; computed once."""
        # Both are gray, so that one channel says all.
        gray = (self.original.getchannel(0), self.view.getchannel(0))
        return look_at(*gray, self.view.info.get(COLOR_INFO, 0.0))


def read_image(image: ImageSource) -> Image.Image:
    """Read an image as an upright, gray 8-bit image.

    Transparent images are put on black. Images with more than 8 bits keep their range if it is a display range
    (`DISPLAY_WHITES`); in raw images the darkest value becomes black and the 99.8th percentile white.

    Args:
        image: A PIL image; or the path of a PNG, JPEG, TIFF, BMP or WebP file with 1, 8, 16 or 32 bits, gray, RGB,
            RGBA, palette or CMYK, or, with `pip install brain-xai[medical]`, of a DICOM or NIfTI file of one slice; or
            an array [H, W], [H, W, 1], [H, W, 3] (RGB) or [H, W, 4] (RGBA) of any numeric type, whose alpha channel is
            opaque at 255, 65535 or, for floats, 1.

    Returns:
        The image in mode "L", in its own size; `info[COLOR_INFO]` is the fraction of pixels that were colored.

    Raises:
        UnreadableImage: If it is damaged, too large, too small, or not one image.
        MemoryError: If there is not enough memory to decode it.
    """
    if isinstance(image, np.ndarray):
        return _read_array(image)
    path = None if isinstance(image, Image.Image) else Path(image)
    try:
        if path is None:
            return _to_gray(image)
        _check_file(path)
        if (scan := _read_medical(path)) is not None:
            return _to_gray(scan)
        check_parts(path.read_bytes())
        # Given the path, Pillow 12 maps uncompressed TIFFs into memory and scrambles those with an orientation tag.
        with path.open("rb") as file, Image.open(file, formats=FORMATS) as opened:
            return _to_gray(opened)
    except (UnreadableImage, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImage(TOO_LARGE_TEXT) from error
    except UnidentifiedImageError as error:
        raise UnreadableImage(_not_an_image_text(path)) from error
    except Exception as error:  # on damaged bytes Pillow's decoders raise nearly anything
        raise UnreadableImage(DAMAGED_TEXT) from error


def to_view(gray: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """Resize a gray image to the model's size, as RGB, without keeping the aspect ratio. Frame it first if asked to."""
    return _view_and_part(gray, preprocessing)[0]


def _view_and_part(gray: Image.Image, preprocessing: Preprocessing) -> tuple[Image.Image, Part]:
    """Return the view of a gray image, and which part of the image it shows, see `ModelInput`."""
    height, width = preprocessing.size
    part = WHOLE
    if preprocessing.frame:
        framed = frame(gray)
        gray, part = framed.image, framed.part
    return gray.resize((width, height), str_to_pil_interp(preprocessing.interpolation)).convert("RGB"), part


def to_original(values: np.ndarray, gray: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """Resample a map of the view to the image that the view was made from.

    Args:
        values: float32 [h, w], such as an attribution.
        gray: The image as `read_image` returns it.
        preprocessing: What the view was made with.

    Returns:
        float32 [H, W] of the image's height and width; 0 where the model did not see the image.
    """
    if preprocessing.frame:
        return frame(gray).to_original(values)
    resized = Image.fromarray(np.asarray(values, dtype=np.float32)).resize(gray.size, Image.Resampling.BILINEAR)
    return np.asarray(resized)


def to_pixel_values(view: Image.Image, preprocessing: Preprocessing) -> torch.Tensor:
    """Return the view as the model's normalized input, float32 [1, 3, H, W], on the CPU."""
    # Each channel is laid out by itself first: arithmetic across interleaved ones takes five times as long.
    channels = torch.from_numpy(np.stack([np.asarray(channel) for channel in view.split()])).float()
    mean = torch.tensor(preprocessing.mean).view(3, 1, 1)
    std = torch.tensor(preprocessing.std).view(3, 1, 1)
    return channels.div_(255).sub_(mean).div_(std)[None]


def prepare(image: ImageSource, preprocessing: Preprocessing) -> ModelInput:
    """Read an image, resize it and normalize it.

    Args:
        image: As for `read_image`.
        preprocessing: What the model was trained with.

    Returns:
        The model's input, the image that it shows, and where that lies in the original.

    Raises:
        UnreadableImage: As `read_image` does.
    """
    gray = read_image(image)
    view, part = _view_and_part(gray, preprocessing)
    view.info[COLOR_INFO] = gray.info.get(COLOR_INFO, 0.0)
    original = gray.convert("RGB")
    original.info = {}  # what the file says about itself
    if max(original.size) > MAX_SHOWN_SIDE:
        original.thumbnail((MAX_SHOWN_SIDE, MAX_SHOWN_SIDE), Image.Resampling.BICUBIC)
    return ModelInput(to_pixel_values(view, preprocessing), view, original, part)


def _read_medical(path: Path) -> Image.Image | None:
    """Return the slice of a DICOM or NIfTI file, None for other files."""
    from brain_xai.study.reading import is_medical, read_slice  # most images never need it

    return read_slice(path) if is_medical(path) else None


def _color_share(image: Image.Image) -> float:
    """Return the fraction of clearly colored pixels of an RGB image, at 96 x 96 pixels. Scans are gray."""
    channels = np.asarray(image.resize((96, 96), Image.Resampling.BILINEAR)).astype(np.int16)
    return float((channels.max(axis=2) - channels.min(axis=2) > COLOR_DIFFERENCE).mean())


def _read_array(array: np.ndarray) -> Image.Image:
    """Read an array as `read_image` does."""
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise UnreadableImage(
            f"The array has shape {list(array.shape)}; an image has [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]. "
            "Pass one slice, with its channels last."
        )
    if array.dtype.kind not in "buif":
        raise UnreadableImage(
            f"The array has the type {array.dtype}, which is not numeric. Convert it to uint8 or float."
        )
    _check_size(array.shape[1], array.shape[0])
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim == 2:
        return Image.fromarray(array) if array.dtype == np.uint8 else _window(array)
    colors = array if array.dtype == np.uint8 else _scale_colors(array)
    return _to_gray(Image.fromarray(colors))


def _scale_colors(array: np.ndarray) -> np.ndarray:
    """Return colors of more than 8 bits, [H, W, 3 or 4], as uint8: the channels share one window, alpha has its own."""
    height, width = array.shape[:2]
    flat = np.asarray(_window(array[..., :3].reshape(height, -1)))
    channels = [flat.reshape(height, width, 3)]
    if array.shape[2] == 4:
        opaque = 1 if array.dtype.kind == "f" else 65535
        alpha = (array[..., 3:] / opaque).clip(0, 1)
        channels.append((alpha * 255).round().astype(np.uint8))
    return np.concatenate(channels, axis=2)


def _check_file(path: Path) -> None:
    """Refuse a file before it is opened."""
    if not path.is_file():
        raise UnreadableImage(f"There is no file called {path.name}. Choose an image of one MRI slice.")
    size = path.stat().st_size
    if size == 0:
        raise UnreadableImage("The file is empty. Export the slice again, then retry.")
    if size > MAX_FILE_BYTES:
        raise UnreadableImage(
            f"The file has {size / 2**20:.0f} MB; at most {MAX_FILE_BYTES / 2**20:.0f} MB can be read. "
            "Save one slice, not a whole series, or make the image smaller."
        )


def _not_an_image_text(path: Path) -> str:
    """Say what a file is that is no image, and what to do."""
    with path.open("rb") as file:
        head = file.read(352)
    kinds = (name for offset, start, name in OTHER_FILES if head[offset:].startswith(start))
    return (
        f"This is {next(kinds, 'not an image, or a damaged one')}. "
        f"Save one slice as {FORMATS_TEXT} and try that file instead."
    )


def _to_gray(image: Image.Image) -> Image.Image:
    """Return a PIL image upright and gray, as `read_image` does."""
    _check_size(*image.size)
    # The MPO of a phone is a JPEG with extra views of the same scene, so its first frame is the image.
    # Pillow would take minutes to count thousands of pages, so it is only asked whether there are several.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise UnreadableImage("The file holds several images or an animation. Save one slice as PNG and try again.")
    image.load()
    white_is_zero = getattr(image, "tag_v2", {}).get(262) == 0  # Pillow inverts such a TIFF at 8 bit only
    check_exif(image)
    image = ImageOps.exif_transpose(image)
    for name in ("exif", "xmp", "XML:com.adobe.xmp"):  # done with; damaged ones may fail when they are read again
        image.info.pop(name, None)
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        gray = _window(np.asarray(image))
        return ImageOps.invert(gray) if white_is_zero else gray
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        black = Image.new("RGBA", layer.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, layer)
    # Through RGB, because palette and CMYK images have no direct conversion to gray that all Pillow versions share.
    if image.mode == "L":
        return image  # if it was read before, its `info` still says how colored the original is
    colors = image.convert("RGB")
    gray = colors.convert("L")
    gray.info[COLOR_INFO] = _color_share(colors)
    return gray


def _check_size(width: int, height: int) -> None:
    """Refuse an image before it is decoded."""
    if width * height > MAX_PIXELS:
        raise UnreadableImage(TOO_LARGE_TEXT)
    if min(width, height) < MIN_SIDE:
        raise UnreadableImage(
            f"The image has {width} × {height} pixels; a scan needs at least {MIN_SIDE} on each side. "
            "Use the image in its full size."
        )
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise UnreadableImage(
            f"The image has {width} × {height} pixels, a strip. Crop it to one slice that shows the whole head."
        )


def _window(values: np.ndarray) -> Image.Image:
    """Return values [H, W] of more than 8 bits as a gray image, windowed where they were not made for display."""
    with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which is refused
        values = values.astype(np.float32)
    if not (np.abs(values) < MAX_VALUE).all():  # false for NaN, too
        raise UnreadableImage("The image holds values that are not numbers. Export the slice again as 8 or 16 bit.")
    black, white = _display_range(values)
    scaled = (values - black) / ((white - black) or 1.0)
    return Image.fromarray((scaled.clip(0, 1) * 255).round().astype(np.uint8))


def _display_range(values: np.ndarray) -> tuple[float, float]:
    """Return the values that are shown black and white."""
    low, high = float(values.min()), float(values.max())
    bright = float(np.percentile(values, WHITE_PERCENTILE))
    for white in DISPLAY_WHITES:
        if low >= 0 and high <= white and bright > white / 4:
            return 0.0, float(white)
    return low, bright
