"""Tables and the figure that compare checkpoints."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from training.report.elsewhere import away_rows, coverage_rows, group_rows
from training.report.figures import BLUE, GRAY, save
from training.report.tables import METRIC_NAMES, markdown_table, named_entries, with_interval

METRICS = ("accuracy", "macro_f1", "auroc_macro", "tumor_miss_rate", "ece", "recall")
# In the figure: metrics of one number, more is better from left to right only where it says so.
PANELS = {"accuracy": "more is better", "tumor_miss_rate": "less is better", "ece": "less is better"}


@dataclass(frozen=True)
class Compared:
    """One checkpoint of a comparison.

    Attributes:
        name: Its folder.
        test: Its metrics on the common test images.
        differences: {metric: interval} of its difference from the first checkpoint.
        mcnemar: The test of whether it errs as often as the first one.
        cost: What it needs on this machine.
        metrics: Its metrics.json.
        explanations: Its explanations.json, {} without one.
    """

    name: str
    test: dict
    differences: dict
    mcnemar: dict
    cost: dict
    metrics: dict
    explanations: dict


def comparison_rows(results: Sequence[Compared]) -> list[list[str]]:
    """Return the table as rows of texts, the header first: one column per checkpoint."""
    rows = [["", *(each.name for each in results)]]
    for metric in METRICS:
        named = [named_entries(each.test, metric) for each in results]
        for name in dict.fromkeys(name for entries in named for name in entries):
            rows.append([name, *(with_interval(entries.get(name)) for entries in named)])
    columns = {f"{index} {each.name}": each.metrics for index, each in enumerate(results)}
    rows += [*coverage_rows(columns), *group_rows(columns), *away_rows(columns)]
    pointing = [each.explanations.get("methods", {}).get("grad_cam", {}).get("pointing_game") for each in results]
    if any(pointing):
        rows.append(["Grad-CAM's peak in the tumor box", *map(with_interval, pointing)])
    return [*rows, *_cost_rows(results)]


def _cost_rows(results: Sequence[Compared]) -> list[list[str]]:
    def row(name: str, form: str, values: Sequence[float]) -> list[str]:
        return [name, *(form.format(value) for value in values)]

    costs = [each.cost for each in results]
    trained = [each.metrics.get("training", {}).get("seconds") for each in results]
    return [
        row("Parameters, million", "{:.1f}", [cost["parameters"] / 1e6 for cost in costs]),
        row("File, MB", "{:.1f}", [cost["file_megabytes"] for cost in costs]),
        row("Prediction, ms", "{:.0f}", [cost["prediction_ms"] for cost in costs]),
        row("Prediction with Grad-CAM, ms", "{:.0f}", [cost["grad_cam_ms"] for cost in costs]),
        row("Memory above the imports, MB", "{:.0f}", [cost["peak_megabytes"] for cost in costs]),
        ["Training, minutes", *("–" if seconds is None else f"{seconds / 60:.0f}" for seconds in trained)],
    ]


def table_of(results: Sequence[Compared]) -> str:
    """Return the comparison as a Markdown table with its caption."""
    header, *rows = comparison_rows(results)
    test, count = results[0].test, results[0].cost["threads"]
    threads = "one thread" if count == 1 else f"{count} threads"
    return (
        f"{markdown_table(header, rows)}\n\n"
        f"Test images: n = {test['n']:,} in {test['groups']:,} duplicate groups. Value [low, high]: 95% interval, "
        f"{test['interval']['method']}. Times: medians for one image on {threads} of this machine."
    )


def differences_table(results: Sequence[Compared], metrics: Sequence[str]) -> str:
    """Return how each checkpoint differs from the first one, with McNemar's test, as a Markdown table."""
    first, *others = results
    known = [metric for metric in metrics if metric in first.differences]
    header = [f"Difference from {first.name}", *(each.name for each in others)]
    rows = [[METRIC_NAMES[metric], *(_signed(each.differences[metric]) for each in others)] for metric in known]
    rows.append(["Right only here / only there", *(_only(each.mcnemar) for each in others)])
    rows.append(["McNemar's p", *(f"{each.mcnemar['p']:.2g}" for each in others)])
    return f"{markdown_table(header, rows)}\n\nPaired by image; McNemar's test takes one image of each duplicate group."


def _signed(entry: dict) -> str:
    if entry["value"] is None:
        return "–"
    return f"{entry['value']:+.3f} [{entry['low']:+.3f}, {entry['high']:+.3f}]"


def _only(result: dict) -> str:
    return f"{result['only_second']} / {result['only_first']}"


def comparison_figure(results: Sequence[Compared], path: Path) -> Figure:
    """Draw the main metrics with their intervals, and accuracy over the time of a prediction."""
    panels = {metric: note for metric, note in PANELS.items() if results[0].test[metric] is not None}
    figure = Figure(figsize=(4.2 * (len(panels) + 1), 1.8 + 0.45 * len(results)), layout="constrained")
    *bars, scatter = figure.subplots(1, len(panels) + 1)
    positions = range(len(results))
    for axes, (metric, note) in zip(bars, panels.items(), strict=True):
        entries = [each.test[metric] for each in results]
        for position, entry in zip(positions, entries, strict=True):
            axes.plot([entry["low"], entry["high"]], [position] * 2, color=GRAY, linewidth=2)
            axes.plot(entry["value"], position, "o", color=BLUE, markersize=8)
        axes.set_yticks(positions, [each.name for each in results] if axes is bars[0] else [])
        axes.invert_yaxis()
        axes.margins(y=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(4))  # more numbers would touch each other
        axes.set_title(f"{METRIC_NAMES[metric]} ({note})", fontsize=12)
    slowest = max(each.cost["prediction_ms"] for each in results)
    for each in results:
        point = each.cost["prediction_ms"], each.test["accuracy"]["value"]
        scatter.plot(*point, "o", color=BLUE, markersize=8)
        side = {"ha": "right", "xytext": (-8, 6)} if point[0] > slowest / 2 else {"ha": "left", "xytext": (8, 6)}
        scatter.annotate(each.name, point, textcoords="offset points", fontsize=10, **side)
    scatter.margins(0.25)
    scatter.set_xlim(left=0)
    scatter.set_xlabel("milliseconds for one prediction", fontsize=11)
    scatter.set_title("Accuracy over time", fontsize=12)
    for axes in (*bars, scatter):
        axes.spines[["top", "right"]].set_visible(False)
    return save(figure, path)
