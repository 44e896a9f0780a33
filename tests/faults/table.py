"""One line of the table of faults."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """A fault, how often it was tried, what happened, and what was lost: "nothing", or else a defect."""

    fault: str
    tries: int
    happened: str
    lost: str = "nothing"

    def __str__(self) -> str:
        return f"| {self.fault} | {self.tries} | {self.happened} | {self.lost} |"


HEAD = "| fault | tries | what happened | lost |\n| --- | ---: | --- | --- |"


@contextmanager
def small_disk(megabytes: float) -> Iterator[Path]:
    """Make a folder on a file system of its own that holds little; needs root on Linux."""
    with tempfile.TemporaryDirectory() as folder:
        size = f"size={int(megabytes * 1024)}k"
        subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", folder], check=True)
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path, left: int) -> Path:
    """Fill a disk until `left` bytes are free, and return the file that does so."""
    filler = folder / "filler"
    filler.write_bytes(bytes(max(0, shutil.disk_usage(folder).free - left)))
    return filler
