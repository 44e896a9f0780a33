"""Table and figure of what `training.robustness` measured."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from training.report.figures import BLUE, GRAY, GREEN, ORANGE, save, tidy
from training.report.tables import markdown_table, with_interval

MEASURES = {
    "accuracy": ("accuracy", BLUE, "-", "o"),
    "warned": ("warned", ORANGE, "--", "s"),
    "rank_correlation": ("map: rank correlation", GREEN, "-.", "^"),
    "pointing_game": ("map: pointing game", GRAY, ":", "D"),
}
COLUMNS = 5


def robustness_table(robustness: dict) -> str:
    """Return a row per kind of change, with the values of its levels from weak to strong, and a caption."""
    unchanged = robustness["unchanged"]
    rows = [["none", "", *(with_interval(unchanged[measure]) for measure in MEASURES)]]
    for name, change in robustness["changes"].items():
        levels = change["levels"]
        values = [" / ".join(_short(level[measure]) for level in levels) for measure in MEASURES]
        rows.append([name, f"{' / '.join(str(level['level']) for level in levels)} {change['unit']}", *values])
    table = markdown_table(["Change", "levels", *(title for title, *_ in MEASURES.values())], rows, left=2)
    classes = ", ".join(f"{n} {label}" for label, n in robustness["classes"].items())
    boxed = unchanged["pointing_game"]
    caption = (
        f"{robustness['split'].capitalize()} split, seed {robustness['seed']}: {robustness['n']} distinct images never "
        f"trained on ({classes}); {robustness['interval']['level']:.0%} intervals: robustness.json and the figure. "
        "Warned: any warning was given. Rank correlation: of the Grad-CAM of the true class with that of the unchanged "
        "scan, after undoing the geometry. Pointing game: its peak lies in the tumor box"
        f"{', n = ' + str(boxed['n']) if boxed else ''}."
    )
    return f"{table}\n\n{caption}"


def _short(entry: dict | None) -> str:
    return "–" if entry is None or entry["value"] is None else f"{entry['value']:.2f}"


def robustness_figure(robustness: dict, path: Path) -> Figure:
    """Draw a panel per kind of change: accuracy, warnings and maps at each level, with their intervals."""
    changes = robustness["changes"]
    rows = -(-len(changes) // COLUMNS)
    figure = Figure(figsize=(3.1 * COLUMNS, 3.3 * rows + 0.9), layout="constrained")
    panels = figure.subplots(rows, COLUMNS, squeeze=False, sharey=True).ravel()
    for axes, (name, change) in zip(panels, changes.items(), strict=False):
        _draw_change(axes, name, change, robustness["unchanged"])
    for axes in panels[len(changes) :]:
        axes.axis("off")
    figure.suptitle(
        f"{robustness['checkpoint']['name']}: {robustness['n']} distinct test images never trained on, changed; "
        f"{robustness['interval']['level']:.0%} intervals",
        fontsize=13,
    )
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=len(MEASURES),
        fontsize=11,
        frameon=False,
    )
    return save(figure, path)


def _draw_change(axes: Axes, name: str, change: dict, unchanged: dict) -> None:
    levels = [{"level": "none"} | unchanged, *change["levels"]]
    for number, (measure, (title, color, style, marker)) in enumerate(MEASURES.items()):
        entries = [level[measure] for level in levels]
        if any(entry is None for entry in entries):
            continue
        values = np.array([entry["value"] for entry in entries])
        ends = np.array([[entry["low"], entry["high"]] for entry in entries]).T
        places = np.arange(len(levels)) + 0.08 * (number - 1.5)  # side by side, so that no interval hides another
        axes.errorbar(
            places, values, yerr=np.abs(ends - values), fmt=marker, linestyle=style, color=color, capsize=2,
            markersize=4, linewidth=1.6, label=title,
        )  # fmt: skip
    axes.set_xticks(range(len(levels)), [str(level["level"]) for level in levels])
    tidy(axes)
    axes.tick_params(axis="x", labelsize=9)
    axes.set_ylim(-0.03, 1.03)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_title(f"{name}\n{change['unit']}", fontsize=11)
