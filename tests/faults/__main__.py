"""Break what can break, and print what happened and what was lost. Some of it needs Linux and root.

python -m tests.faults [--only NAME ...] [--tries 20] [--seed 0]
"""

import argparse
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

from huggingface_hub.utils import disable_progress_bars
from huggingface_hub.utils.logging import set_verbosity_error

from tests.faults import hub, serving, training
from tests.faults.table import HEAD, Row
from tests.helpers.training_runs import on_two_processes

# Given a folder, how often to try where the moment is random, and a seed.
FAULTS: dict[str, Callable[[Path, int, int], Row]] = {
    "kill": training.killed_at_random,
    "kill-two": lambda folder, tries, seed: training.killed_at_random(folder, tries, seed, on_two_processes),
    "kill-saving": lambda folder, tries, seed: training.killed_at_moments(folder),
    "kill-saving-two": lambda folder, tries, seed: training.killed_at_moments(folder, on_two_processes),
    "disk-training": lambda folder, tries, seed: training.disk_full_while_saving(folder),
    "disk-upload": lambda folder, tries, seed: serving.disk_full_while_uploading(),
    "disk-cache": lambda folder, tries, seed: hub.disk_full_while_pulling(folder),
    "checkpoint": serving.damaged_checkpoint,
    "cache": lambda folder, tries, seed: hub.half_written_cache(folder),
    "push": lambda folder, tries, seed: hub.lost_while_pushing(folder),
    "pull": lambda folder, tries, seed: hub.lost_while_pulling(folder),
    "sigterm": lambda folder, tries, seed: serving.sigterm_while_maps_are_computed(),
    "memory": lambda folder, tries, seed: serving.out_of_memory_of_one_request(),
}


def main() -> int:
    """Print one line per fault, and return 1 if anything was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", nargs="+", choices=FAULTS, default=list(FAULTS), metavar="NAME", help=", ".join(FAULTS)
    )
    parser.add_argument("--tries", type=int, default=20, help="how often, where the moment is random")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    disable_progress_bars()
    set_verbosity_error()
    warnings.simplefilter("ignore")
    print(HEAD, flush=True)
    rows = []
    for name in given.only:
        with tempfile.TemporaryDirectory(prefix="faults-") as folder:
            rows.append(FAULTS[name](Path(folder), given.tries, given.seed))
        print(rows[-1], flush=True)
    return int(any(row.lost != "nothing" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
