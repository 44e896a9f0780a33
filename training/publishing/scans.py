"""Which scans of a run are published: only those for which cases.csv gives a credit line, and thus a license."""

import csv
from pathlib import Path

CASES = "examples/cases.csv"
MAPS = "figures/maps.png"  # shows scans of the same source as the examples
COLUMNS = ("file", "label", "credit")


def write_cases(folder: Path, labels: dict[str, str]) -> None:
    """List the example scans of a run, {file: label}; a person adds the credits before the scans are published."""
    with (folder / CASES).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({"file": name, "label": label} for name, label in labels.items())


def publishable_scans(folder: Path) -> list[Path]:
    """Return the example scans of a run with their list, and its figure of maps, if every example has a credit."""
    images = sorted(path for path in (folder / "examples").glob("*") if path.suffix in (".png", ".jpg"))
    try:
        with (folder / CASES).open(encoding="utf-8", newline="") as file:
            credited = {row["file"] for row in csv.DictReader(file) if (row.get("credit") or "").strip()}
    except (OSError, ValueError, KeyError, csv.Error):
        return []
    if not images or not credited.issuperset(path.name for path in images):
        return []
    return [folder / CASES, *images, *(path for path in [folder / MAPS] if path.is_file())]
