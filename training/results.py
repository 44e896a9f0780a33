"""Write the README's tables of results and maps from the checkpoints' own files and from METHODS.

python -m training.results [--check] README.md
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from brain_xai.checkpoint.catalog import BUNDLED
from brain_xai.checkpoint.folder import read_explanations
from training.report.elsewhere import away_rows, coverage_rows, group_rows
from training.report.tables import maps_table, results_table

TABLES = ("results", "maps")
METRICS = ("accuracy", "macro_f1", "tumor_miss_rate", "ece")


def insert_tables(readme: str, checkpoints: Path) -> str:
    """Return the text of a README with the tables between their markers.

    Args:
        readme: The text; each table goes between the lines `<!-- NAME:start -->` and `<!-- NAME:end -->`.
        checkpoints: A folder of checkpoint folders; the maps are those of the best one by validation.

    Raises:
        ValueError: A marker is missing, or there is no checkpoint with metrics.
    """
    folders = checkpoint_folders(checkpoints)
    columns = {}
    for file in [folder / name for name in ("metrics.json", "official.json") for folder in folders]:
        if file.is_file():
            content = _read(file)
            columns[f"{file.parent.name}, {content['split']} split"] = content
    first = [*group_rows(columns), *away_rows(columns)]
    tables = {
        "results": results_table(columns, METRICS, first, coverage_rows(columns)),
        "maps": maps_table(folders[0].name, read_explanations(folders[0]) or None),
    }
    for name in TABLES:
        readme = _insert(readme, name, tables[name])
    return readme


def checkpoint_folders(checkpoints: Path) -> list[Path]:
    """Return the folders with a metrics.json one level below `checkpoints`, the best by validation macro-F1 first."""
    files = sorted(checkpoints.glob("*/metrics.json"))
    if not files:
        raise ValueError(f"There is no metrics.json in any folder of {checkpoints}.")
    files.sort(key=lambda file: -_read(file)["validation"]["macro_f1"]["value"])
    return [file.parent for file in files]


def _read(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8"))


def _insert(readme: str, name: str, table: str) -> str:
    start, end = (f"<!-- {name}:{side} -->" for side in ("start", "end"))
    before, found_start, rest = readme.partition(start)
    _, found_end, after = rest.partition(end)
    if not (found_start and found_end):
        raise ValueError(f"The README needs a line {start} and, below it, a line {end}: the table goes between them.")
    return f"{before}{start}\n{table}\n{end}{after}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the tables, or with --check return 1 where the README does not hold the tables that would be written."""
    parser = argparse.ArgumentParser(prog="python -m training.results", description="Write the tables of the README.")
    parser.add_argument("readme", type=Path)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a table is out of date")
    parser.add_argument("--checkpoints", type=Path, default=BUNDLED, help="folder of checkpoint folders")
    options = parser.parse_args(arguments)
    try:
        current = options.readme.read_text(encoding="utf-8")
        expected = insert_tables(current, options.checkpoints)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if not options.check:
        options.readme.write_text(expected, encoding="utf-8")
    elif current != expected:
        print(f"{options.readme} is out of date. Run: python -m training.results {options.readme}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
