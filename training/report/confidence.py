"""The figure of what `training.shortcuts` measured about probabilities: reliability and coverage, source by source."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from training.report.figures import BLUE, GRAY, GREEN, ORANGE, save, tidy
from training.report.tables import with_interval

COLUMNS = 3
CURVES = ((BLUE, "-"), (ORANGE, "--"), (GREEN, "-."), ("#CC79A7", ":"), (GRAY, "-"), ("black", "--"))
# A bin with fewer answers is drawn faintly: its accuracy is mostly chance.
FEW = 10


def confidence_by_source(confidence: dict, path: Path) -> Figure:
    """Draw accuracy against probability for each source, and accuracy against coverage for all of them.

    Args:
        confidence: The part "confidence" of what `training.shortcuts` measured.
        path: The PNG file to write.
    """
    rows = -(-(len(confidence) + 1) // COLUMNS)
    figure = Figure(figsize=(4.3 * COLUMNS, 4.1 * rows), layout="constrained")
    panels = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axes, (source, measured) in zip(panels, confidence.items(), strict=False):
        _draw_reliability(axes, source, measured)
    _draw_coverage(panels[len(confidence)], confidence)
    for axes in panels[len(confidence) + 1 :]:
        axes.axis("off")
    figure.suptitle("Accuracy against the probability of the answer; last panel: the surest answers only", fontsize=13)
    return save(figure, path)


def _draw_reliability(axes: Axes, source: str, measured: dict) -> None:
    bins = [row for row in measured["bins"] if row["count"]]
    width = 0.92 * (bins[0]["high"] - bins[0]["low"])
    for row in bins:
        faint = 0.35 if row["count"] < FEW else 1
        center = (row["low"] + row["high"]) / 2
        axes.bar(center, row["accuracy"], width, color=BLUE, alpha=faint)
        axes.plot(row["probability"], row["accuracy"], "o", color=ORANGE, markeredgecolor="white", clip_on=False)
        axes.annotate(f"{row['count']:,}", (center, 0.02), ha="center", fontsize=8, color="white", rotation=90)
    axes.plot([0, 1], [0, 1], "--", color=GRAY, linewidth=1.5)
    tidy(axes)
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.03)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    axes.set_title(f"{source}, n = {measured['n']:,}\nECE {with_interval(measured['ece'])}", fontsize=11)


def _draw_coverage(axes: Axes, confidence: dict) -> None:
    for (source, measured), (color, style) in zip(confidence.items(), CURVES * len(confidence), strict=False):
        coverage, accuracy = zip(*measured["curve"], strict=True)
        axes.plot(coverage, accuracy, style, color=color, linewidth=2, label=source)
    tidy(axes)
    axes.set_xlim(0, 1.02)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    axes.set_title("Accuracy (up) of the surest answers\nat this coverage (across)", fontsize=11)
    axes.legend(fontsize=9, frameon=False, loc="lower left")
