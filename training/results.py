"""Tables in Markdown: metrics, and those of the README, written from the checkpoints' own files and from METHODS.

python -m training.results [--check] README.md
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from brain_xai.methods import METHODS

BUNDLED = Path(__file__).parent.parent / "brain_xai" / "bundled"
START, END = "<!-- results:start -->", "<!-- results:end -->"
METHODS_START, METHODS_END = "<!-- methods:start -->", "<!-- methods:end -->"
EXPLANATIONS_START, EXPLANATIONS_END = "<!-- explanations:start -->", "<!-- explanations:end -->"
README_ROWS = ("accuracy", "macro_f1", "recall", "tumor_miss_rate", "ece")
METRIC_NAMES = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "macro_f1": "Macro-F1",
    "precision": "Precision",
    "recall": "Recall",
    "f1": "F1",
    "auroc": "AUROC",
    "auroc_macro": "Macro AUROC",
    "tumor_miss_rate": "Tumour miss rate",
    "nll": "NLL",
    "brier": "Brier score",
    "ece": "ECE",
}
EXPLANATION_MEASURES = {"pointing_game": "pointing game", "energy_lift": "energy, times chance", "srg": "SRG"}
BASELINE_TITLES = {
    "uniform": "*uniform*",
    "centre": "*centre*",
    "edges": "*edges*",
    "random_weights": "*random weights*",
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


def explanations_table(columns: dict[str, dict]) -> str:
    """Return a table of how good the maps are, methods and baselines in rows, with a line below it that names the sets.

    `columns` maps a title to the content of an explanations.json.
    """
    header = [f"{title}: {name}" for title in columns for name in EXPLANATION_MEASURES.values()]
    rows = []
    for kind in ("methods", "baselines"):
        for key in dict.fromkeys(key for column in columns.values() for key in column[kind]):
            entries = [
                column[kind].get(key, {}).get(name) for column in columns.values() for name in EXPLANATION_MEASURES
            ]
            rows.append([BASELINE_TITLES.get(key, f"`{key}`"), *(_with_n(entry) for entry in entries)])
    return f"{markdown_table(['Maps', *header], rows)}\n\n{_explanations_footnote(columns)}"


def _with_n(entry: dict | None) -> str:
    return with_interval(entry) if entry is None else f"{with_interval(entry)}, n = {entry['n']}"


def _explanations_footnote(columns: dict[str, dict]) -> str:
    notes = []
    for title, column in columns.items():
        interval, test = column["interval"], column["sets"]["test"]["n"]
        notes.append(
            f"{title}: {column['split']} split, {test:,} test pictures with a box to draw from, seed {column['seed']}, "
            f"{column['target']} class explained, {column['picture_size'][1]} px, pixels replaced by "
            f"{column['baseline']} ones for SRG, "
            f"{interval['level']:.0%} interval ({interval['method']})."
        )
        if compared := column.get("alignment", {}).get("grad_cam"):
            pointing = compared["pointing_game"]
            notes.append(
                f"{title}, Grad-CAM laid at the measured place of its cells: pointing game "
                f"{with_interval(pointing['aligned'])}; stretched over the picture, as is usual: "
                f"{with_interval(pointing['stretched'])}; difference {_with_n(pointing['difference'])}."
            )
    return " ".join(
        [
            "Value [low, high]. Pointing game: the strongest pixel is inside the tumour box. Energy: the share of the "
            "positive evidence inside the box, over the box's share of the picture. SRG: how much sooner the "
            "probability falls when the most important pixels are replaced first. In italics: what a map without "
            "knowledge gets.",
            *notes,
        ]
    )


def explanation_columns(checkpoints: Path) -> dict[str, dict]:
    """Return the content of every explanations.json one level below `checkpoints` that is about its weights."""
    columns = {}
    for file in sorted(checkpoints.glob("*/explanations.json")):
        content = json.loads(file.read_text(encoding="utf-8"))
        weights = file.with_name("model.safetensors")
        if weights.is_file() and content["checkpoint"]["revision"] == file_hash(weights):
            columns[file.parent.name] = content
    return columns


def file_hash(file: Path) -> str:
    """Return the first twelve hexadecimal digits of a file's SHA-256: the revision of a checkpoint on this disk."""
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]


def methods_table() -> str:
    """Return a table of all methods: what each shows, what it costs and where it comes from."""
    rows = (
        f"| {method.title} | `{key}` | {method.summary} | {method.forward_passes} | [paper]({method.paper}) |"
        for key, method in METHODS.items()
    )
    header = "| method | key | what it shows | cost | source |\n| --- | --- | --- | ---: | --- |"
    return "\n".join([header, *rows])


def insert_results(readme: str, checkpoints: Path) -> str:
    """Return the text of a README with each table between its two markers; raises ValueError without them.

    Where no checkpoint's maps were measured, the markers of that table may be missing.
    """
    readme = _between(readme, START, END, results_table(checkpoint_columns(checkpoints), README_ROWS))
    if METHODS_START in readme:
        readme = _between(readme, METHODS_START, METHODS_END, methods_table())
    measured = explanation_columns(checkpoints)
    if not measured and EXPLANATIONS_START not in readme:
        return readme
    table = explanations_table(measured) if measured else "No checkpoint's maps are measured yet."
    return _between(readme, EXPLANATIONS_START, EXPLANATIONS_END, table)


def _between(readme: str, start: str, end: str, table: str) -> str:
    before, found_start, rest = readme.partition(start)
    _, found_end, after = rest.partition(end)
    if not (found_start and found_end):
        raise ValueError(f"The README needs a line {start} and, below it, a line {end}: the table goes between them.")
    return f"{before}{start}\n{table}\n{end}{after}"


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
