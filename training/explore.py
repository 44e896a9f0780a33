"""Look at a data set before anyone trains on it: what is in it, what is copied, and what gives the classes away.

python -m training.explore --data-dir DIR --output report.html

Writes one HTML page with pictures, and prints the main numbers. The page shows scans: keep it where the data may be.
"""

import argparse
import webbrowser
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from training.data.sources import DataError
from training.evaluation.exploration import Exploration, explore
from training.report.exploration import exploration_page


def summary(found: Exploration) -> str:
    """Return the main findings as a few lines of text."""
    copies, names = found.copies, found.scans.label_names
    counts = np.bincount(found.scans.labels, minlength=len(names))
    easiest = max(found.cues["as it is"].items(), key=lambda entry: entry[1]["value"])
    lines = [
        f"{len(found.scans.files):,} images: "
        + ", ".join(f"{name} {count:,}" for name, count in zip(names, counts, strict=True)),
        f"{copies['distinct_pictures']:,} of them distinct; {copies['test_images_with_copy_in_train']:,} of "
        f"{copies['test_images']:,} test images have a copy in the training set",
        f"{copies['conflicting_groups']} images with copies under another label; {len(found.outliers)} outliers; "
        f"{len(found.scans.skipped)} files skipped",
        f"Without the brain, {easiest[0]} tells the class with a balanced accuracy of {easiest[1]['value']:.2f} "
        f"(chance {1 / len(names):.2f})",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, write the page and print the summary."""
    parser = argparse.ArgumentParser(
        prog="python -m training.explore", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", required=True, help="folder of Training/<class> and Testing/<class>, or <class>")
    parser.add_argument("--output", type=Path, required=True, help="HTML file to write")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    given = parser.parse_args(arguments)
    try:
        found = explore(given.data_dir)
    except DataError as error:
        raise SystemExit(f"error: {error}") from error
    given.output.write_text(exploration_page(found, Path(given.data_dir).resolve().name), encoding="utf-8")
    print(summary(found))
    print(f"The report is in {given.output}.")
    if given.open:
        webbrowser.open(given.output.resolve().as_uri())


if __name__ == "__main__":
    main()
