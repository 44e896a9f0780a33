"""Many images at once: one row each, in the given order, whatever is wrong with some of them."""

import csv
import io
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from brain_xai.classifier import Classifier
from brain_xai.csv_cells import cell
from brain_xai.preprocess import MAX_FILE_BYTES, UnreadableImage
from brain_xai.ui.jobs import Progress
from brain_xai.ui.monitoring.monitor import count_answer

MAX_IMAGES = 1000
MAX_NAME_LENGTH = 255
# The directory of a zip with that many images; a zip may hold millions of names in a few megabytes.
MAX_DIRECTORY_BYTES = 1024 * MAX_IMAGES
END_OF_DIRECTORY, END_OF_LARGE_DIRECTORY = b"PK\x05\x06", b"PK\x06\x07"
END_BYTES = 2**16 + 22
ZIP_STARTS = (b"PK\x03\x04", END_OF_DIRECTORY)  # with files, and empty

TOO_MANY = f"These are more than {MAX_IMAGES:,} images. Send them in several batches."
NO_FILES = "There are no images in this batch. Send image files, or one zip of image files."
BAD_ZIP = "This zip cannot be read. Zip the images again, without a password."
BAD_MEMBER = (
    "This file of the zip is damaged, has a password or is compressed in an unusual way. Zip the images again, "
    "without a password."
)
LARGE_MEMBER = f"The file is larger than {MAX_FILE_BYTES // 2**20} MB. Make the image smaller."


class BadBatch(ValueError):
    """The batch as a whole cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class NamedFile:
    """A file and its name as the caller gave it; with `member`, a file in a zip."""

    name: str
    path: Path
    member: zipfile.ZipInfo | None = None
    error: str = ""


@dataclass(frozen=True)
class Row:
    """What became of one image: an answer, or an `error`. `warnings` are codes."""

    file: str
    label: str | None = None
    probabilities: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class Table:
    """The rows of a batch so far, of `total`; the messages of the warnings in them by code; which model answers."""

    rows: list[Row]
    messages: dict[str, str]
    total: int
    classifier: Classifier


def unpack(files: Sequence[NamedFile]) -> list[NamedFile]:
    """Return the images in the given order, those of a zip in its own order; raises `BadBatch`."""
    images: list[NamedFile] = []
    for file in files:
        images += _members(file) if _is_zip(file.path) else [file]
        if len(images) > MAX_IMAGES:
            raise BadBatch(TOO_MANY)
    if not images:
        raise BadBatch(NO_FILES)
    return images


def predict_all(classifier: Classifier, images: Sequence[NamedFile], progress: Progress) -> Table:
    """Classify images one by one; `progress` gets the table so far, and what it raises ends the work."""
    table = Table([], {}, len(images), classifier)
    with _Unpacking(images[0].path.parent) as unpacking:
        for done, image in enumerate(images):
            progress(done, len(images), replace(table, rows=list(table.rows), messages=dict(table.messages)))
            try:
                with unpacking.lend(image) as path:
                    prediction = classifier.predict(path)
            except UnreadableImage as error:
                table.rows.append(Row(image.name, error=str(error)))
                continue
            count_answer(prediction)
            table.messages.update((warning.code, warning.message) for warning in prediction.warnings)
            codes = tuple(warning.code for warning in prediction.warnings)
            table.rows.append(Row(image.name, prediction.label, prediction.probabilities, codes))
    progress(len(images), len(images))
    return table


def to_csv(rows: Sequence[Row], label_names: Sequence[str]) -> str:
    """Return the rows as CSV: file, label, one probability per label, warnings (codes), error."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["file", "label", *map(cell, label_names), "warnings", "error"])
    for row in rows:
        probabilities = [f"{row.probabilities[name]:.6f}" if row.probabilities else "" for name in label_names]
        texts = [cell(text) for text in (row.file, row.label or "", " ".join(row.warnings), row.error)]
        writer.writerow([*texts[:2], *probabilities, *texts[2:]])
    return buffer.getvalue()


def _members(file: NamedFile) -> list[NamedFile]:
    """Return the files in a zip without unpacking them; one entry with an error if that is not possible."""
    try:
        _check_directory(file.path)
        with zipfile.ZipFile(file.path) as archive:
            # Not `is_dir()`, which fails on a file without a name.
            entries = [entry for entry in archive.infolist() if not entry.filename.endswith("/")]
    except (zipfile.BadZipFile, OSError, NotImplementedError):
        return [NamedFile(file.name, file.path, error=BAD_ZIP)]
    return [
        NamedFile(entry.filename[:MAX_NAME_LENGTH], file.path, member=entry)
        for entry in entries
        # macOS adds a hidden file for each file.
        if not entry.filename.startswith("__MACOSX/") and not Path(entry.filename).name.startswith(".")
    ]


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) in ZIP_STARTS


def _check_directory(path: Path) -> None:
    """Raise `BadBatch` for a zip that lists too many files: `zipfile` would read the whole list into memory."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - END_BYTES))
        end = file.read()
    if END_OF_LARGE_DIRECTORY in end:
        raise BadBatch(TOO_MANY)
    start = end.find(END_OF_DIRECTORY)
    while start >= 0:
        if len(end) >= start + 16 and struct.unpack_from("<I", end, start + 12)[0] > MAX_DIRECTORY_BYTES:
            raise BadBatch(TOO_MANY)
        start = end.find(END_OF_DIRECTORY, start + 1)


class _Unpacking(ExitStack):
    """Unpacks one file after another into a folder below `parent`; each zip is opened once."""

    def __init__(self, parent: Path):
        super().__init__()
        self._folder = Path(self.enter_context(tempfile.TemporaryDirectory(dir=parent)))
        self._archives: dict[Path, zipfile.ZipFile] = {}

    @contextmanager
    def lend(self, image: NamedFile) -> Iterator[Path]:
        """Lend the path of an image, unpacked for so long if it is in a zip; raises `UnreadableImage`."""
        if image.error:
            raise UnreadableImage(image.error)
        if image.member is None:
            yield image.path
            return
        unpacked = self._folder / "image"
        unpacked.write_bytes(self._read(image.path, image.member))
        try:
            yield unpacked
        finally:
            unpacked.unlink()

    def _read(self, path: Path, member: zipfile.ZipInfo) -> bytes:
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # memory is not bounded for others
            raise UnreadableImage(BAD_MEMBER)
        try:
            if path not in self._archives:
                self._archives[path] = self.enter_context(zipfile.ZipFile(path))
            with self._archives[path].open(member) as file:
                content = file.read(MAX_FILE_BYTES + 1)
        except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError, OSError) as error:
            raise UnreadableImage(BAD_MEMBER) from error
        if len(content) > MAX_FILE_BYTES:
            raise UnreadableImage(LARGE_MEMBER)
        return content
