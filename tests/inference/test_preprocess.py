"""The model sees the same scan whatever its file format; what cannot be read is refused with a sentence."""

import contextlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from brain_xai.preprocess import (
    MAX_FILE_BYTES,
    Preprocessing,
    UnreadableImage,
    prepare,
    read_image,
    to_pixel_values,
    to_view,
)

PREPROCESSING = Preprocessing(size=(48, 64), mean=(0.5, 0.25, 0.5), std=(0.25, 0.5, 0.25))
UPRIGHT, QUARTER_TURN, ORIENTATION = 1, 6, 274


@pytest.fixture(scope="module")
def scan() -> Image.Image:
    """A gray scan without any symmetry, with values from 0 to 252."""
    y, x = np.mgrid[0:96, 0:80] / 96
    values = np.hypot((x - 0.3) * 1.3, y - 0.4)
    return Image.fromarray((252 * np.clip(1.2 - 2 * values, 0, 1)).astype(np.uint8))


def as_array(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def save(folder: Path, image: Image.Image, suffix: str, **options) -> Path:
    path = folder / f"scan.{suffix}"
    image.save(path, **options)
    return path


def sixteen_bit(scan: Image.Image, byte_order: str = "<") -> Image.Image:
    values = (np.asarray(scan).astype(np.uint16) * 257).astype(f"{byte_order}u2")
    return Image.frombytes("I;16" if byte_order == "<" else "I;16B", scan.size, values.tobytes())


def transparent(scan: Image.Image) -> Image.Image:
    """White with the scan as its opacity: on black it looks like the scan."""
    return Image.merge("LA", (Image.new("L", scan.size, 255), scan))


# name: (image from scan, suffix, options of Pillow's writer, largest mean difference in gray levels)
SAME_SCAN = {
    "png gray": (lambda scan: scan, "png", {}, 0),
    "png rgb": (lambda scan: scan.convert("RGB"), "png", {}, 0),
    "png rgba": (lambda scan: transparent(scan).convert("RGBA"), "png", {}, 0.6),
    "png gray with opacity": (transparent, "png", {}, 0.6),
    "png palette": (lambda scan: scan.convert("P"), "png", {}, 0),
    "png 16 bit": (sixteen_bit, "png", {}, 0.5),
    "jpeg": (lambda scan: scan, "jpg", {"quality": 95}, 1),
    "jpeg rgb": (lambda scan: scan.convert("RGB"), "jpg", {"quality": 95}, 1),
    "jpeg cmyk": (lambda scan: scan.convert("RGB").convert("CMYK"), "jpg", {"quality": 95}, 2),
    "phone jpeg with two views": (
        lambda scan: scan.convert("RGB"),
        "mpo",
        {"save_all": True, "append_images": [Image.new("RGB", (80, 96))], "quality": 95},
        1,
    ),
    "bmp": (lambda scan: scan, "bmp", {}, 0),
    "webp": (lambda scan: scan.convert("RGB"), "webp", {"lossless": True}, 0),
    "tiff": (lambda scan: scan, "tif", {}, 0),
    "tiff compressed": (lambda scan: scan, "tif", {"compression": "tiff_lzw"}, 0),
    "tiff cmyk": (lambda scan: scan.convert("RGB").convert("CMYK"), "tif", {}, 1),
    "tiff 16 bit": (sixteen_bit, "tif", {}, 0.5),
    "tiff 16 bit big endian": (lambda scan: sixteen_bit(scan, ">"), "tif", {}, 0.5),
    "tiff 16 bit, white is zero": (
        lambda scan: sixteen_bit(ImageOps.invert(scan)),
        "tif",
        {"tiffinfo": {262: 0}},
        0.5,
    ),
    "tiff 32 bit": (lambda scan: Image.fromarray(as_array(scan).astype(np.int32) * 257), "tif", {}, 0.5),
    "tiff fractions": (lambda scan: Image.fromarray(np.asarray(scan, dtype=np.float32) / 255), "tif", {}, 0.5),
    "tiff float levels": (lambda scan: Image.fromarray(np.asarray(scan, dtype=np.float32)), "tif", {}, 0.5),
}


@pytest.mark.parametrize("name", SAME_SCAN)
def test_every_format_shows_the_same_scan(name, scan, tmp_path):
    make, suffix, options, tolerance = SAME_SCAN[name]
    path = save(tmp_path, make(scan), suffix, **options)
    image = read_image(path)
    assert (image.mode, image.size) == ("L", scan.size)
    assert np.abs(as_array(image) - as_array(scan)).mean() <= tolerance


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_a_rotated_image_with_its_exif_tag_is_upright(suffix, scan, tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = QUARTER_TURN
    rotated = scan.transpose(Image.Transpose.ROTATE_90)
    image = read_image(save(tmp_path, rotated, suffix, exif=exif))
    assert image.size == scan.size
    assert np.abs(as_array(image) - as_array(scan)).mean() <= 3
    assert image.getexif().get(ORIENTATION, UPRIGHT) == UPRIGHT


def test_sixteen_bits_with_an_exif_tag_are_upright(scan, tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = QUARTER_TURN
    rotated = sixteen_bit(scan.transpose(Image.Transpose.ROTATE_90))
    assert np.abs(as_array(read_image(save(tmp_path, rotated, "png", exif=exif))) - as_array(scan)).max() <= 1


def test_one_bit(tmp_path):
    squares = Image.fromarray(np.kron(np.eye(2), np.ones((40, 40))).astype(bool))
    assert squares.mode == "1"
    image = read_image(save(tmp_path, squares, "png"))
    assert set(np.unique(np.asarray(image))) == {0, 255}
    assert np.asarray(image)[0, 0] == 255


def test_raw_values_are_windowed_and_a_hot_pixel_does_not_darken_them(scan, tmp_path):
    raw = as_array(scan).astype(np.uint16) * 5 + 100  # 12 bit: 100 to 1,360
    raw[3, 5] = 60_000
    image = as_array(read_image(save(tmp_path, Image.fromarray(raw), "png")))
    assert image.min() == 0
    assert image.max() == 255
    tissue = (as_array(scan) > 0) & (raw < 60_000)
    assert np.abs(image[tissue] - as_array(scan)[tissue] * 255 / 252).max() <= 4


def test_negative_values_are_windowed(scan, tmp_path):
    standardized = (np.asarray(scan, dtype=np.float32) - 120) / 60
    image = as_array(read_image(save(tmp_path, Image.fromarray(standardized), "tif")))
    assert (image.min(), image.max()) == (0, 255)
    assert np.corrcoef(image.ravel(), as_array(scan).ravel())[0, 1] > 0.999


@pytest.mark.parametrize("value", [-3000, 0, 7])
def test_a_uniform_raw_image_is_black(value, tmp_path):
    uniform = Image.fromarray(np.full((40, 40), value, dtype=np.float32))
    assert as_array(read_image(save(tmp_path, uniform, "tif"))).max() == 0


def test_a_transparent_background_is_black(tmp_path):
    image = Image.new("RGBA", (40, 40), (255, 255, 255, 0))
    assert as_array(read_image(save(tmp_path, image, "png"))).max() == 0


def test_a_path_and_the_opened_image_agree(scan, tmp_path):
    path = save(tmp_path, sixteen_bit(scan), "png")
    with Image.open(path) as opened:
        assert np.array_equal(as_array(read_image(opened)), as_array(read_image(path)))


# name: (array from scan, largest difference in gray levels)
SAME_ARRAY = {
    "uint8": (lambda gray: gray, 0),
    "uint8 with a channel axis": (lambda gray: gray[..., None], 0),
    "uint8 RGB": (lambda gray: np.stack([gray] * 3, axis=-1), 0),
    "uint8 RGBA": (lambda gray: np.stack([gray] * 3 + [np.full_like(gray, 255)], axis=-1), 0),
    "uint8 white with opacity": (lambda gray: np.stack([np.full_like(gray, 255)] * 3 + [gray], axis=-1), 1),
    "not contiguous": (lambda gray: np.asfortranarray(gray), 0),
    "uint16": (lambda gray: gray.astype(np.uint16) * 257, 0),
    "uint16 big endian": (lambda gray: (gray.astype(np.uint16) * 257).astype(">u2"), 0),
    "uint16 RGB": (lambda gray: np.stack([gray.astype(np.uint16) * 257] * 3, axis=-1), 0),
    "int64": (lambda gray: gray.astype(np.int64), 0),
    "float in [0, 1]": (lambda gray: gray / 255, 0),
    "half precision": (lambda gray: (gray / 255).astype(np.float16), 1),
    "float RGB in [0, 1]": (lambda gray: np.stack([gray / 255] * 3, axis=-1).astype(np.float32), 0),
    "float white with opacity": (lambda gray: np.stack([np.ones(gray.shape)] * 3 + [gray / 255], axis=-1), 1),
    "float levels": (lambda gray: gray.astype(np.float32), 0),
}


@pytest.mark.parametrize("name", SAME_ARRAY)
def test_every_kind_of_array_shows_the_same_scan(name, scan):
    make, tolerance = SAME_ARRAY[name]
    image = read_image(make(np.asarray(scan)))
    assert (image.mode, image.size) == ("L", scan.size)
    assert np.abs(as_array(image) - as_array(scan)).max() <= tolerance


def test_colors_of_an_array_become_the_same_gray_as_those_of_an_image():
    colors = np.random.default_rng(0).integers(256, size=(40, 50, 3), dtype=np.uint8)
    expected = as_array(Image.fromarray(colors).convert("L"))
    assert np.array_equal(as_array(read_image(colors)), expected)
    assert np.abs(as_array(read_image(colors / 255)) - expected).max() <= 1


def test_an_array_and_a_file_of_the_same_raw_values_agree(scan, tmp_path):
    for raw in (as_array(scan).astype(np.uint16) * 5 + 100, (np.asarray(scan, dtype=np.float32) - 120) / 60):
        path = save(tmp_path, Image.fromarray(raw), "tif")
        assert np.array_equal(as_array(read_image(raw)), as_array(read_image(path)))


def test_a_mask_is_black_and_white():
    assert set(np.unique(as_array(read_image(np.eye(40, dtype=bool))))) == {0, 255}


def test_an_array_is_prepared_like_its_image(scan):
    assert torch.equal(prepare(np.asarray(scan), PREPROCESSING).pixel_values, prepare(scan, PREPROCESSING).pixel_values)


REFUSED_ARRAYS = {
    "channels first": (np.zeros((3, 64, 64), np.uint8), r"shape \[3, 64, 64\]"),
    "a volume": (np.zeros((155, 240, 240), np.uint8), "Pass one slice"),
    "a batch": (np.zeros((1, 64, 64, 3), np.uint8), "Pass one slice"),
    "a row": (np.zeros(64, np.uint8), r"shape \[64\]"),
    "two channels": (np.zeros((64, 64, 2), np.uint8), "channels last"),
    "nothing": (np.zeros((0, 0), np.uint8), "0 × 0"),
    "too small": (np.zeros((8, 64), np.uint8), "64 × 8"),
    "a strip": (np.zeros((40, 400), np.uint8), "strip"),
    "complex": (np.zeros((64, 64), complex), "complex128, which is not numeric"),
    "texts": (np.full((64, 64), "scan"), "not numeric"),
    "not a number": (np.full((64, 64), np.nan), "not numbers"),
    "not a number in colors": (np.full((64, 64, 3), np.inf), "not numbers"),
    "too large for float32": (np.full((64, 64), 1e300), "not numbers"),
}


@pytest.mark.parametrize("name", REFUSED_ARRAYS)
def test_refused_arrays(name):
    array, words = REFUSED_ARRAYS[name]
    with pytest.raises(UnreadableImage, match=words) as refusal:
        read_image(array)
    assert str(refusal.value).count(". ") >= 1
    assert str(refusal.value).endswith(".")


def test_the_view_is_the_whole_image_at_the_models_size(scan):
    view = to_view(scan, PREPROCESSING)
    assert (view.mode, view.size) == ("RGB", (64, 48))
    red, green, blue = (as_array(channel) for channel in view.split())
    assert np.array_equal(red, green)
    assert np.array_equal(green, blue)


def test_pixel_values_are_normalized_per_channel():
    view = Image.new("RGB", (64, 48), (255, 255, 255))
    pixel_values = to_pixel_values(view, PREPROCESSING)
    assert pixel_values.shape == (1, 3, 48, 64)
    assert pixel_values.dtype == torch.float32
    assert pixel_values[0, :, 0, 0].tolist() == [2.0, 1.5, 2.0]  # (1 - mean) / std


def test_prepare_gives_the_view_and_its_numbers(scan):
    model_input = prepare(scan, PREPROCESSING)
    assert torch.equal(model_input.pixel_values, to_pixel_values(model_input.view, PREPROCESSING))


def test_a_real_scan_is_read_unchanged(data_root):
    path = sorted((data_root / "brain-tumor-mri" / "Testing" / "glioma").iterdir())[0]
    with Image.open(path) as opened:
        assert np.array_equal(as_array(read_image(path)), as_array(opened.convert("RGB").convert("L")))


def png_bytes(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def png_that_claims(side: int) -> bytes:
    """The start of a square one-bit PNG, up to where decoding begins."""
    header = b"IHDR" + struct.pack(">2I5B", side, side, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + b"\0\0\0\0IDAT"
    )


# name: (file name, content, words that the message must contain)
REFUSED = {
    "empty": ("scan.png", b"", "empty"),
    "text": ("scan.png", b"a scan, honestly", "not an image"),
    "svg": ("scan.svg", b'<svg xmlns="http://www.w3.org/2000/svg" width="90" height="90"/>', "SVG"),
    "dicom": ("scan.dcm", bytes(128) + b"DICM" + bytes(900), "DICOM"),
    "nifti": ("scan.nii", bytes(344) + b"n+1\0" + bytes(900), "NIfTI"),
    "zip": ("scan.zip", b"PK\x03\x04" + bytes(90), "ZIP"),
    "pdf": ("scan.pdf", b"%PDF-1.7 ...", "PDF"),
    "gif": ("scan.gif", b"GIF89a" + bytes(90), "GIF"),
    "heic": ("scan.heic", b"\0\0\0\x18ftypheic" + bytes(90), "HEIC"),
    "too many bytes": ("scan.bmp", bytes(MAX_FILE_BYTES + 1), "20 MB"),
    "one pixel high": ("scan.png", png_bytes(Image.new("L", (200, 1))), "200 × 1"),
    "a strip": ("scan.png", png_bytes(Image.new("L", (400, 90))), "strip"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_what_is_wrong_and_what_to_do(name, tmp_path):
    file, content, words = REFUSED[name]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(UnreadableImage, match=words) as refusal:
        read_image(tmp_path / file)
    sentence = str(refusal.value)
    assert str(tmp_path) not in sentence
    assert sentence.count(". ") >= 1  # what is wrong, then what to do
    assert sentence.endswith(".")


@pytest.mark.parametrize("side", [8_000, 10_000, 20_000])  # above our limit, Pillow's warning, Pillow's error
def test_too_many_pixels_are_refused_before_decoding(side, tmp_path):
    path = tmp_path / "scan.png"
    path.write_bytes(png_that_claims(side))
    with pytest.raises(UnreadableImage, match="50 million pixels"):
        read_image(path)


@pytest.mark.parametrize(("suffix", "mode"), [("png", "L"), ("webp", "RGB"), ("tif", "L"), ("tif", "I;16")])
def test_several_images_in_one_file_are_refused(suffix, mode, scan, tmp_path):
    first = sixteen_bit(scan) if mode == "I;16" else scan.convert(mode)
    path = save(tmp_path, first, suffix, save_all=True, append_images=[Image.new(mode, scan.size)])
    with pytest.raises(UnreadableImage, match="several images or an animation"):
        read_image(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 3e38])
def test_values_that_are_not_numbers_are_refused(bad, tmp_path):
    values = np.ones((40, 40), dtype=np.float32)
    values[3, 3] = bad
    with pytest.raises(UnreadableImage, match="not numbers"):
        read_image(save(tmp_path, Image.fromarray(values), "tif"))


def test_a_missing_file_is_named_without_its_folder(tmp_path):
    with pytest.raises(UnreadableImage, match=r"^There is no file called scan\.png\.") as refusal:
        read_image(tmp_path / "scan.png")
    assert str(tmp_path) not in str(refusal.value)


# Pillow itself warns about damaged metadata before it gives up.
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp", "webp"])
def test_a_file_cut_off_anywhere_is_refused(suffix, scan, tmp_path):
    path = save(tmp_path, scan, suffix)
    content = path.read_bytes()
    for share in np.linspace(0.01, 0.95, 25):
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(UnreadableImage):
            read_image(path)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp", "webp"])
def test_damaged_bytes_never_raise_anything_else(suffix, scan, tmp_path):
    path = save(tmp_path, scan, suffix)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(100):
        damaged = np.frombuffer(content, dtype=np.uint8).copy()
        damaged[rng.integers(min(len(damaged), 400), size=4)] = rng.integers(256, size=4)
        path.write_bytes(damaged.tobytes())
        with contextlib.suppress(UnreadableImage):
            assert read_image(path).mode == "L"
