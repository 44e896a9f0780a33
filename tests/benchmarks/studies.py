"""How long a study takes from its files to its report, and how much memory.

Command: python tests/benchmarks/studies.py STUDY [STUDY …] [--checkpoint bundled/resnet18] [--threads 2]
"""

import argparse
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).parents[2]))  # the package, from wherever this is started

import torch

from brain_xai import UnreadableImage, load_checkpoint
from brain_xai.study import explain_study, read_study, report_html, table, to_dicom, to_nifti

Result = TypeVar("Result")


def main() -> None:
    """Print a line for each step: seconds, and the highest memory of the process so far."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="+", type=Path)
    parser.add_argument("--checkpoint", default="bundled/resnet18")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    classifier = _timed("load the model", lambda: load_checkpoint(arguments.checkpoint))
    for path in arguments.studies:
        print(path.name)
        start = time.perf_counter()
        try:
            study = _timed("  read", lambda path=path: read_study(path))
        except UnreadableImage as error:
            print(f"  refused after {time.perf_counter() - start:.2f} s, peak {_peak()} MB: {error}")
            continue
        explained = _timed(f"  {len(study)} answers", lambda study=study: explain_study(classifier, study))
        for name, form in (("table", table), ("report", report_html), ("NIfTI map", to_nifti), ("DICOM map", to_dicom)):
            size = len(_timed(f"  {name}", lambda form=form, explained=explained: form(explained)))
            print(f"    {size / 2**20:.2f} MB")


def _timed(name: str, step: Callable[[], Result]) -> Result:
    start = time.perf_counter()
    result = step()
    print(f"{name}: {time.perf_counter() - start:.2f} s, peak {_peak()} MB", flush=True)
    return result


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    main()
