"""The images of an archive: every file below a folder, or a data set of the Hub, opened one by one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import datasets
from PIL import Image

from training.data.sources import DataError


class Archive(Protocol):
    """Images by number; safe to use from several processes."""

    names: Sequence[str]

    def __len__(self) -> int: ...

    def open(self, index: int) -> Path | Image.Image:
        """Return an image as a path or a PIL image; raises `OSError` or, where it is no image, what reading raises."""


@dataclass(frozen=True)
class Folder:
    """Every file below `root` by its path relative to it, sorted; hidden files are left out."""

    root: Path
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.names)

    def open(self, index: int) -> Path:
        return self.root / self.names[index]


@dataclass(frozen=True)
class HubDataset:
    """The rows of a data set; `column` holds the images, `names` are "split/row"."""

    rows: datasets.Dataset
    column: str
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.names)

    def open(self, index: int) -> Image.Image:
        return self.rows[index][self.column]


def open_archive(source: str) -> Archive:
    """Open a folder, or a data set on the Hub as "org/name"; raises `DataError`."""
    root = Path(source)
    if root.is_dir():
        files = (file for file in root.rglob("*") if file.is_file())
        names = sorted(file.relative_to(root).as_posix() for file in files)
        names = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
        if not names:
            raise DataError(f"There is no file in {source}.")
        return Folder(root, names)
    try:
        splits = datasets.load_dataset(source)
    except (OSError, ValueError, datasets.exceptions.DatasetNotFoundError) as error:
        raise DataError(f"{source} is neither a folder nor a data set that can be loaded: {error}") from error
    features = next(iter(splits.values())).features
    column = next((name for name, kind in features.items() if isinstance(kind, datasets.Image)), None)
    if column is None:
        raise DataError(f"{source} has no column of images; it has {', '.join(features)}.")
    names = [f"{split}/{row}" for split, rows in splits.items() for row in range(len(rows))]
    return HubDataset(datasets.concatenate_datasets(list(splits.values())), column, names)
