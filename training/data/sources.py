"""Pictures from a folder, the Hub or Kaggle: opened once, decoded to a uint8 cache, split without leaks."""

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

# Starting processes takes seconds, decoding so many pictures does not.
WORTH_PROCESSES = 1000
# Only the size matters here: the cache holds pixels before normalisation.
NO_NORMALISATION = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


class DataError(ValueError):
    """The data cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class Scans:
    """Every readable picture of a data set.

    `pixels` uint8 [n, H, W] grey, exactly the classifier's view; `thumbnails` uint8 [n, 96, 96]; `labels` int64 [n];
    `files` n names; `official_split` n times "train" or "test"; `left_out` (file, reason) of what could not be used;
    `fingerprint` hash of names, labels and bytes. `frames` float32 [n, 4] is the part of each file that `pixels` shows:
    left, top, right, bottom in fractions of its width and height, below 0 and above 1 where it was padded.
    """

    pixels: np.ndarray
    thumbnails: np.ndarray
    labels: np.ndarray
    label_names: tuple[str, ...]
    files: list[str]
    official_split: np.ndarray
    left_out: list[tuple[str, str]]
    fingerprint: str
    frames: np.ndarray


def load_scans(
    data_dir: str | None = None,
    dataset: str | None = None,
    kaggle: str | None = None,
    size: int = 224,
    interpolation: str = "bicubic",
    processes: int = 2,
    framed: bool = False,
) -> Scans:
    """Open every picture once and decode it to `size` x `size` pixels.

    Exactly one source: `data_dir` (folders `Training/<class>` and `Testing/<class>`, or just `<class>`), `dataset` (an
    id on the Hub with an image and a class column) or `kaggle` ("owner/name"). With `framed` every image is cropped to
    the head first. Raises `DataError`.
    """
    if sum(source is not None for source in (data_dir, dataset, kaggle)) != 1:
        raise DataError("Name exactly one source of pictures: --data-dir, --dataset or --kaggle.")
    if kaggle is not None:
        data_dir = _download_from_kaggle(kaggle)
    # As datasets names its files: without "..", but through the links that the caller named.
    root = Path(os.path.abspath(data_dir)) if data_dir is not None else None
    by_split = _open_folder(root) if root is not None else _open_hub_dataset(dataset)
    label_names = tuple(by_split["train"].features["label"].names)
    preprocessing = Preprocessing((size, size), interpolation=interpolation, frame=framed, **NO_NORMALISATION)
    decoded = {
        name: split.map(
            _decode,
            # The version makes the cache of datasets forget what an older framing decoded.
            fn_kwargs={"preprocessing": preprocessing, "frame_version": FRAME_VERSION},
            remove_columns=["image"],
            features=DECODED,
            num_proc=processes if len(split) > WORTH_PROCESSES else None,
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
        grey = read_image(_open(content, file))
    except UnreadableImage as error:
        return decoded | {"reason": str(error)}
    shown = grey
    if preprocessing.frame:
        framed = frame(grey)
        shown, decoded["frame"] = framed.image, list(framed.part)
        preprocessing = replace(preprocessing, frame=False)
    return decoded | {
        "pixels": np.asarray(to_view(shown, preprocessing).getchannel(0)).tobytes(),
        "thumbnail": thumbnail(grey).tobytes(),
    }


def _open(content: bytes, file: str | None) -> Image.Image:
    if not content:
        raise UnreadableImage("empty file")
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except Exception as error:  # on damaged bytes Pillow raises nearly anything
        raise UnreadableImage("not a picture, or damaged") from error
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
        raise DataError("None of the files is a readable picture.")
    kept = rows.select(usable)
    labels = np.asarray(kept["label"][:], dtype=np.int64)
    kept_files = [files[i] for i in usable]
    lines = sorted(zip(kept_files, labels.tolist(), kept["digest"][:], strict=True))
    left_out = [(files[i], str(reasons[i])) for i in np.flatnonzero(reasons != "")]
    if root is not None:
        left_out += [(name, "not a picture file") for name in _other_files(root, files)]
    return Scans(
        pixels=_stack(kept["pixels"][:], size),
        thumbnails=_stack(kept["thumbnail"][:], THUMBNAIL_SIZE),
        labels=labels,
        label_names=label_names,
        files=kept_files,
        official_split=official_split[usable],
        left_out=left_out,
        fingerprint=hashlib.sha256(repr(lines).encode()).hexdigest(),
        frames=np.asarray(kept["frame"][:], dtype=np.float32),
    )


def _stack(buffers: Sequence[bytes], side: int) -> np.ndarray:
    return np.frombuffer(b"".join(buffers), dtype=np.uint8).reshape(-1, side, side)


def _relative(file: str, root: Path | None) -> str:
    return Path(file).relative_to(root).as_posix() if root is not None else file


def _open_folder(root: Path) -> datasets.DatasetDict:
    if not root.is_dir():
        raise DataError(f"There is no folder {root}.")
    folders = {child.name.lower(): child for child in root.iterdir() if child.is_dir()}
    train = folders.get("training", folders.get("train"))
    test = folders.get("testing", folders.get("test"))
    # Named one by one, because imagefolder's data_dir would put both folders into one split.
    data_files = {"train": str((train or root) / "**")}
    if train and test:
        data_files["test"] = str(test / "**")
    try:
        opened = datasets.load_dataset("imagefolder", data_files=data_files, drop_labels=False)
    except (FileNotFoundError, datasets.exceptions.DatasetNotFoundError, ValueError) as error:
        raise DataError(
            f"{root} holds no pictures in class folders: expected Training/<class> and Testing/<class>, or <class>."
        ) from error
    return opened.cast_column("image", datasets.Image(decode=False))


def _other_files(root: Path, known: Sequence[str]) -> list[str]:
    """Return the files inside the class folders that are not among the pictures."""
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
        import kagglehub  # optional: only this source needs it
    except ImportError as error:
        raise DataError("--kaggle needs kagglehub. Install it with: pip install kagglehub") from error
    root = Path(kagglehub.dataset_download(name))
    while len(children := [child for child in root.iterdir() if not child.name.startswith(".")]) == 1:
        root = children[0]  # archives often wrap everything in one more folder
    return str(root)
