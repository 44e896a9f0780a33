"""Where the bytes of a study come from: files, folders and ZIP archives. Nothing is ever unpacked to disk."""

import gzip
import io
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from brain_xai.study.limits import (
    MAX_FILE_BYTES,
    MAX_FILES,
    MAX_READS,
    MAX_UNPACKED_BYTES,
    TOO_MANY_FILES_TEXT,
    TOO_MANY_PARTS_TEXT,
)
from brain_xai.unreadable import UnreadableStudy

HEAD_BYTES = 352
GZIP, ZIP = b"\x1f\x8b", (b"PK\x03\x04", b"PK\x05\x06")
# Other methods of packing may ask for gigabytes to unpack anything.
PLAIN_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# The end of an archive, with the size of its list of files; a comment of up to 64 kB may follow.
ZIP_END, ZIP_64, END_BYTES = b"PK\x05\x06", b"PK\x06\x07", 2**16 + 22
MAX_DIRECTORY_BYTES = 1024 * MAX_FILES
DAMAGED_ZIP_TEXT = "The ZIP archive is damaged or incomplete. Make it again, then retry."


@dataclass(frozen=True)
class Source:
    """One file of a study: its `kind` ("DICOM", "NIfTI", "ZIP" or "other") and a function that opens it."""

    kind: str
    open: Callable[[], BinaryIO]


def kind_of(start: Callable[[], BinaryIO]) -> str:
    """Return what a file is by its first bytes, never by its name: "DICOM", "NIfTI", "ZIP" or "other"."""
    with start() as file:
        head = file.read(HEAD_BYTES)
        if head.startswith(GZIP):
            file.seek(0)
            try:
                with gzip.open(file) as unpacked:
                    head = unpacked.read(HEAD_BYTES)
            except (OSError, EOFError, zlib.error):
                return "other"
            return "NIfTI" if _is_nifti(head) else "other"
    if head[128:132] == b"DICM":
        return "DICOM"
    if _is_nifti(head):
        return "NIfTI"
    return "ZIP" if head.startswith(ZIP) else "other"


class Reads:
    """How often the files of one study may still be read: their size does not bound how many elements they have."""

    def __init__(self):
        self._left = MAX_READS

    def count(self) -> None:
        """Count one; raises `UnreadableStudy`."""
        self._left -= 1
        if self._left < 0:
            raise UnreadableStudy(TOO_MANY_PARTS_TEXT)


class Counted(io.BufferedReader):
    """A file whose reads are counted."""

    name = None  # pydicom asks for it

    def __init__(self, file: Any, reads: Reads):
        super().__init__(file)
        self._reads = reads

    def read(self, size: int | None = -1) -> bytes:
        """Return the next bytes."""
        self._reads.count()
        return super().read(size)


@contextmanager
def opened(paths: Sequence[str | os.PathLike]) -> Iterator[list[Source]]:
    """Find the files of a study.

    Args:
        paths: Files, folders (read with their subfolders) and ZIP archives.

    Yields:
        The files in the order of the paths and, within a folder or archive, of their names; readable inside the block.

    Raises:
        UnreadableStudy: Nothing is there, or it is more than the limits allow.
    """
    with ExitStack() as stack:
        sources: list[Source] = []
        reads = Reads()
        for path in _files(paths):
            if path.stat().st_size > MAX_FILE_BYTES:
                raise UnreadableStudy(f"A file has more than {MAX_FILE_BYTES // 2**20} MB. Choose one series.")
            source = _source(path, reads)
            sources += _members(path, stack, reads) if source.kind == "ZIP" else [source]
            if len(sources) > MAX_FILES:
                raise UnreadableStudy(TOO_MANY_FILES_TEXT)
        yield sources


def _files(paths: Sequence[str | os.PathLike]) -> list[Path]:
    files: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise UnreadableStudy("A file of the study is no longer there. Choose the files again.")
        files += _files_of_folder(path) if path.is_dir() else [path]
        if len(files) > MAX_FILES:
            raise UnreadableStudy(TOO_MANY_FILES_TEXT)
    if not files:
        raise UnreadableStudy("There is no file. Choose the DICOM files of one series, a ZIP of them, or a NIfTI file.")
    return files


def _files_of_folder(folder: Path) -> list[Path]:
    """Return the plain files below a folder, without following links out of it."""
    files: list[Path] = []
    for root, _, names in os.walk(folder, followlinks=False):
        files += [Path(root, name) for name in names if not name.startswith(".")]
        if len(files) > MAX_FILES:
            raise UnreadableStudy(TOO_MANY_FILES_TEXT)
    return sorted(file for file in files if file.is_file() and not file.is_symlink())


def _source(path: Path, reads: Reads) -> Source:
    def start() -> BinaryIO:
        return Counted(path.open("rb", buffering=0), reads)

    return Source(kind_of(start), start)


def _members(path: Path, stack: ExitStack, reads: Reads) -> list[Source]:
    """Return the files of an archive. Their names are never used as paths."""
    _check_directory(path)
    try:
        archive = stack.enter_context(zipfile.ZipFile(path))
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
        raise UnreadableStudy(DAMAGED_ZIP_TEXT) from error
    # Not `is_dir()`, which fails on a file without a name.
    infos = [info for info in archive.infolist() if not (info.filename.endswith("/") or _is_rubbish(info.filename))]
    if len(infos) > MAX_FILES:
        raise UnreadableStudy(TOO_MANY_FILES_TEXT)
    if any(info.flag_bits & 1 for info in infos):
        raise UnreadableStudy("The ZIP archive has a password. Unpack it, then make one without a password.")
    if any(info.compress_type not in PLAIN_METHODS for info in infos):
        raise UnreadableStudy("The ZIP archive is packed in an unusual way. Make it again with the usual settings.")
    if sum(info.file_size for info in infos) > MAX_UNPACKED_BYTES:
        raise UnreadableStudy(
            f"Unpacked, the ZIP archive has more than {MAX_UNPACKED_BYTES // 2**20} MB. Choose one series."
        )
    sources = [_member(archive, info, reads) for info in sorted(infos, key=lambda info: info.filename)]
    if any(source.kind == "ZIP" for source in sources):
        raise UnreadableStudy("There is another archive inside the ZIP archive. Unpack it, then choose one series.")
    return sources


def _check_directory(path: Path) -> None:
    """Refuse an archive that lists too many files: `zipfile` reads the whole list into memory."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - END_BYTES))
        end = file.read()
    start = end.find(ZIP_END)
    while start >= 0:
        size = int.from_bytes(end[start + 12 : start + 16], "little")
        if size > MAX_DIRECTORY_BYTES or ZIP_64 in end:
            raise UnreadableStudy(TOO_MANY_FILES_TEXT)
        start = end.find(ZIP_END, start + 1)


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, reads: Reads) -> Source:
    def head() -> BinaryIO:
        return io.BytesIO(_read(archive, info, HEAD_BYTES * 64))

    kind = kind_of(head)

    def start() -> BinaryIO:
        # A NIfTI file is read once, from its start, so one that its header refuses is never unpacked. A DICOM file is
        # read to and fro, for which an archive would unpack it again and again.
        member = archive.open(info) if kind == "NIfTI" else io.BytesIO(_read(archive, info, info.file_size))
        return Counted(member, reads)

    return Source(kind, start)


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, size: int) -> bytes:
    """Return at most `size` bytes of a member: it may say that it is small and unpack to gigabytes."""
    try:
        with archive.open(info) as member:
            return member.read(size)
    except (zipfile.BadZipFile, OSError, EOFError, zlib.error, RuntimeError, NotImplementedError) as error:
        raise UnreadableStudy(DAMAGED_ZIP_TEXT) from error


def _is_nifti(head: bytes) -> bool:
    return head[344:348] in (b"n+1\0", b"ni1\0") or head[4:8] in (b"n+2\0", b"ni2\0")


def _is_rubbish(name: str) -> bool:
    """Tell whether a member is one of those that macOS and others add."""
    return name.startswith("__MACOSX/") or name.rsplit("/", 1)[-1].startswith(".")
