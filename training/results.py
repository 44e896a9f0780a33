"""Tables of results: metrics as Markdown, and the table of the README, written from the checkpoints' own files.

python -m training.results [--check] README.md
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

BUNDLED = Path(__file__).parent.parent / "brain_xai" / "bundled"
START, END = "<!-- results:start -->", "<!-- results:end -->"
README_ROWS = ("accuracy", "macro_f1", "recall", "tumour_miss_rate", "ece")
METRIC_NAMES = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "macro_f1": "Macro-F1",
    "precision": "Precision",
    "recall": "Recall",
    "f1": "F1",
    "auroc": "AUROC",
    "auroc_macro": "Macro AUROC",
    "tumour_miss_rate": "Tumour miss rate",
    "nll": "NLL",
    "brier": "Brier score",
    "ece": "ECE",
}


def with_interval(entry: dict | None) -> str:
    """Return `{"value", "low", "high"}` as `0.965 [0.953, 0.976]`, or – where there is no value."""
    if entry is None or entry["value"] is None:
        return "–"
    value = f"{entry['value']:.3f}"
    return value if entry["low"] is None else f"{value} [{entry['low']:.3f}, {entry['high']:.3f}]"


def named_entries(test: dict, metric: str) -> dict[str, dict]:
    """Return the entries of one metric under names for people: one, one per class, or none where it has no meaning."""
    name, entry = METRIC_NAMES[metric], test[metric]
    if entry is None:
        return {}
    return {name: entry} if "value" in entry else {f"{name}, {label}": entry[label] for label in entry}


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; the first column is aligned left, the others right."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def results_table(columns: dict[str, dict], metrics: Sequence[str]) -> str:
    """Return a table of test metrics with a line below it that names n, seed and the method of the intervals.

    `columns` maps a title to the content of a metrics.json; `metrics` are keys of METRIC_NAMES, and a metric that has
    a value per class gets a row for each.
    """
    tests = [column["test"] for column in columns.values()]
    rows = []
    for metric in metrics:
        named = [named_entries(test, metric) for test in tests]
        names = dict.fromkeys(name for entries in named for name in entries)
        rows += [[name, *(with_interval(entries.get(name)) for entries in named)] for name in names]
    return f"{markdown_table(['Test images', *columns], rows)}\n\n{_footnote(columns)}"


def _footnote(columns: dict[str, dict]) -> str:
    sizes, methods = {}, []
    for title, column in columns.items():
        test, interval = column["test"], column["test"]["interval"]
        size = f"n = {test['n']:,} test images in {test['groups']:,} duplicate groups, training seed {column['seed']}"
        sizes.setdefault(size, []).append(title)
        methods.append(f"{interval['level']:.0%} interval, {interval['method']} ({interval['samples']:,} samples)")
    named = (size if len(sizes) == 1 else f"{' and '.join(titles)}: {size}" for size, titles in sizes.items())
    return f"Value [low, high]: {'; '.join(dict.fromkeys(methods))}. {'; '.join(named)}."


def checkpoint_columns(checkpoints: Path) -> dict[str, dict]:
    """Return the content of every `metrics.json` and `official.json` one level below `checkpoints`, under a title."""
    columns = {}
    for folder in sorted(checkpoints.iterdir()):
        for file in (folder / "metrics.json", folder / "official.json"):
            if file.is_file():
                content = json.loads(file.read_text(encoding="utf-8"))
                columns[f"{folder.name}, {content['split']} split"] = content
    if not columns:
        raise ValueError(f"There is no metrics.json in any folder of {checkpoints}.")
    return columns


def insert_results(readme: str, checkpoints: Path) -> str:
    """Return the text of a README with the results between its two markers; raises ValueError without them."""
    before, start, rest = readme.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise ValueError(f"The README needs a line {START} and, below it, a line {END}: the table goes between them.")
    return f"{before}{START}\n{results_table(checkpoint_columns(checkpoints), README_ROWS)}\n{END}{after}"


def main(arguments: list[str] | None = None) -> int:
    """Write the table, or with --check return 1 where the README does not hold the table that would be written."""
    parser = argparse.ArgumentParser(prog="python -m training.results", description="Write the README's results table.")
    parser.add_argument("readme", type=Path)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the table is out of date")
    parser.add_argument("--checkpoints", type=Path, default=BUNDLED, help="folder of checkpoint folders")
    options = parser.parse_args(arguments)
    try:
        written = options.readme.read_text(encoding="utf-8")
        expected = insert_results(written, options.checkpoints)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if not options.check:
        options.readme.write_text(expected, encoding="utf-8")
    elif written != expected:
        print(f"{options.readme} is out of date. Run: python -m training.results {options.readme}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
