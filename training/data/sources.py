"""Images from a folder, the Hub or Kaggle: opened once and decoded to a uint8 cache on the disk."""

import glob
import hashlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import datasets
import numpy as np
from PIL import Image

from brain_xai.framing import FRAME_VERSION, frame
from brain_xai.preprocess import FORMATS, Preprocessing, UnreadableImage, read_image, to_view
from training.data.duplicate_groups import THUMBNAIL_SIZE, thumbnail
from training.data.stack import ImageStack

# With fewer images than this, starting worker processes costs more time than decoding.
MIN_IMAGES_FOR_WORKERS = 1000
DECODING_WORKERS = min(os.cpu_count() or 1, 8)
# The cache holds pixels before normalization.
NO_NORMALIZATION = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


class DataError(ValueError):
    """The data cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class Scans:
    """Every readable image of a data set.

    `pixels` uint8 [n, H, W] gray, exactly the classifier's view, and `thumbnails` uint8 [n, 96, 96] are read from the
    cache when they are used, and need not fit into memory; `labels` int64 [n];
    `files` n names; `official_split` n times "train" or "test"; `skipped` (file, reason) of what could not be used;
    `fingerprint` hash of names, labels and bytes. `frames` float32 [n, 4] is the part of each file that `pixels` shows:
    left, top, right, bottom in fractions of its width and height, below 0 and above 1 where it was padded.
    """

    pixels: ImageStack
    thumbnails: ImageStack
    labels: np.ndarray
    label_names: tuple[str, ...]
    files: list[str]
    official_split: np.ndarray
    skipped: list[tuple[str, str]]
    fingerprint: str
    frames: np.ndarray


def load_scans(
    data_dir: str | None = None,
    dataset: str | None = None,
    kaggle: str | None = None,
    size: int = 224,
    interpolation: str = "bicubic",
    framed: bool = False,
) -> Scans:
    """Open every image once and decode it to `size` x `size` pixels.

    Args:
        data_dir: Folder with `Training/<class>` and `Testing/<class>`, or just `<class>`. Exactly one of the first
            three arguments must be given.
        dataset: Id on the Hub of a data set with an image and a class column.
        kaggle: Data set on Kaggle, "owner/name".
        size: Height and width in pixels.
        interpolation: Pillow's name for the resampling filter.
        framed: Crop every image to the head first.

    Returns:
        The scans, in the order of the files.

    Raises:
        DataError: if the source is missing, has another structure or no readable image.
    """
    if sum(source is not None for source in (data_dir, dataset, kaggle)) != 1:
        raise DataError("Name exactly one source of images: --data-dir, --dataset or --kaggle.")
    if kaggle is not None:
        data_dir = _download_from_kaggle(kaggle)
    # Normalize the path like `datasets` does: no "..", symbolic links kept.
    root = Path(os.path.abspath(data_dir)) if data_dir is not None else None
    by_split = _open_folder(root) if root is not None else _open_hub_dataset(dataset)
    label_names = tuple(by_split["train"].features["label"].names)
    preprocessing = Preprocessing((size, size), interpolation=interpolation, frame=framed, **NO_NORMALIZATION)
    decoded = {
        name: split.map(
            _decode,
            # Part of the cache key of `datasets`, so that images framed by an older version are decoded again.
            fn_kwargs={"preprocessing": preprocessing, "frame_version": FRAME_VERSION},
            remove_columns=["image"],
            features=DECODED,
            num_proc=DECODING_WORKERS if len(split) > MIN_IMAGES_FOR_WORKERS else None,
            desc=f"Decoding {name}",
        )
        for name, split in by_split.items()
    }
    rows = datasets.concatenate_datasets(list(decoded.values()))
    official_split = np.repeat(list(decoded), [len(split) for split in decoded.values()])
    return _collect(rows, official_split, label_names, size, root)


DECODED = datasets.Features(
    label=datasets.Value("int64"),
    file=datasets.Value("string"),
    reason=datasets.Value("string"),
    digest=datasets.Value("string"),
    pixels=datasets.Value("binary"),
    thumbnail=datasets.Value("binary"),
    frame=datasets.List(datasets.Value("float32")),
)


def _decode(row: dict, preprocessing: Preprocessing, frame_version: int) -> dict:
    file, content = row["image"]["path"], row["image"]["bytes"]
    if content is None:
        content = Path(file).read_bytes()
    decoded = {
        "file": file or hashlib.sha256(content).hexdigest()[:16],
        "reason": "",
        "digest": hashlib.sha256(content).hexdigest(),
        "pixels": b"",
        "thumbnail": b"",
        "frame": [0.0, 0.0, 1.0, 1.0],
    }
    try:
        gray = read_image(_open(content, file))
    except UnreadableImage as error:
        return decoded | {"reason": str(error)}
    shown = gray
    if preprocessing.frame:
        framed = frame(gray)
        shown, decoded["frame"] = framed.image, list(framed.part)
        preprocessing = replace(preprocessing, frame=False)
    return decoded | {
        "pixels": np.asarray(to_view(shown, preprocessing).getchannel(0)).tobytes(),
        "thumbnail": thumbnail(gray).tobytes(),
    }


def _open(content: bytes, file: str | None) -> Image.Image:
    if not content:
        raise UnreadableImage("empty file")
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except Exception as error:  # on damaged bytes Pillow raises almost any type
        raise UnreadableImage("not an image, or damaged") from error
    expected = Image.registered_extensions().get(Path(file or "").suffix.lower(), image.format)
    if expected != image.format and {expected, image.format} != {"JPEG", "MPO"}:
        raise UnreadableImage(f"the name says {expected}, the content is {image.format}")
    return image


def _collect(
    rows: datasets.Dataset, official_split: np.ndarray, label_names: tuple[str, ...], size: int, root: Path | None
) -> Scans:
    reasons = np.array(rows["reason"][:])
    files = [_relative(file, root) for file in rows["file"][:]]
    usable = np.flatnonzero(reasons == "")
    if len(usable) == 0:
        raise DataError("None of the files is a readable image.")
    readable = rows.select(usable)
    labels = np.asarray(readable["label"][:], dtype=np.int64)
    readable_files = [files[i] for i in usable]
    lines = sorted(zip(readable_files, labels.tolist(), readable["digest"][:], strict=True))
    skipped = [(files[i], str(reasons[i])) for i in np.flatnonzero(reasons != "")]
    if root is not None:
        skipped += [(name, "not an image file") for name in _other_files(root, files)]
    return Scans(
        pixels=ImageStack.of_column(rows.data.column("pixels"), size),
        thumbnails=ImageStack.of_column(rows.data.column("thumbnail"), THUMBNAIL_SIZE),
        labels=labels,
        label_names=label_names,
        files=readable_files,
        official_split=official_split[usable],
        skipped=skipped,
        fingerprint=hashlib.sha256(repr(lines).encode()).hexdigest(),
        frames=np.asarray(readable["frame"][:], dtype=np.float32),
    )


def _relative(file: str, root: Path | None) -> str:
    return Path(file).relative_to(root).as_posix() if root is not None else file


def _open_folder(root: Path) -> datasets.DatasetDict:
    if not root.is_dir():
        raise DataError(f"There is no folder {root}.")
    folders = {child.name.lower(): child for child in root.iterdir() if child.is_dir()}
    train = folders.get("training", folders.get("train"))
    test = folders.get("testing", folders.get("test"))
    # imagefolder's data_dir would merge both folders into one split. In a pattern, brackets of a name must be escaped.
    data_files = {"train": f"{glob.escape(str(train or root))}/**"}
    if train and test:
        data_files["test"] = f"{glob.escape(str(test))}/**"
    try:
        opened = datasets.load_dataset("imagefolder", data_files=data_files, drop_labels=False)
    except (FileNotFoundError, datasets.exceptions.DatasetNotFoundError, ValueError) as error:
        raise DataError(
            f"{root} holds no images in class folders: expected Training/<class> and Testing/<class>, or <class>."
        ) from error
    return opened.cast_column("image", datasets.Image(decode=False))


def _other_files(root: Path, known: Sequence[str]) -> list[str]:
    """Return the files inside the class folders that are not images."""
    folders = {Path(file).parent for file in known}
    found = (file for folder in sorted(folders) for file in sorted((root / folder).iterdir()) if file.is_file())
    names = (file.relative_to(root).as_posix() for file in found if not file.name.startswith("."))
    return [name for name in names if name not in set(known)]


def _open_hub_dataset(name: str) -> datasets.DatasetDict:
    opened = datasets.load_dataset(name)
    features = next(iter(opened.values())).features
    image = next((column for column, kind in features.items() if isinstance(kind, datasets.Image)), None)
    label = next((column for column, kind in features.items() if isinstance(kind, datasets.ClassLabel)), None)
    if image is None or label is None:
        raise DataError(f"{name} needs one column of images and one of class labels; it has {', '.join(features)}.")
    opened = opened.select_columns([image, label]).rename_columns(
        {old: new for old, new in ((image, "image"), (label, "label")) if old != new}
    )
    test = [split for key, split in opened.items() if key == "test"]
    rest = [split for key, split in opened.items() if key != "test"]
    splits = {"train": datasets.concatenate_datasets(rest or test)}
    if rest and test:
        splits["test"] = test[0]
    return datasets.DatasetDict(splits).cast_column("image", datasets.Image(decode=False))


def _download_from_kaggle(name: str) -> str:
    try:
        import kagglehub  # optional: only needed here
    except ImportError as error:
        raise DataError("--kaggle needs kagglehub. Install it with: pip install kagglehub") from error
    root = Path(kagglehub.dataset_download(name))
    while len(children := [child for child in root.iterdir() if not child.name.startswith(".")]) == 1:
        root = children[0]  # archives often contain a single top folder
    return str(root)
