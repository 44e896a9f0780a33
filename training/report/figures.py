"""Figures of a checkpoint as PNG files: training curves, confusion matrix, reliability diagram and map quality.

Each function writes its file and returns the figure.
"""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

from training.report.tables import EXPLANATION_MEASURES, METRIC_NAMES, with_interval

# Okabe and Ito's colors, which color-blind readers can tell apart; lines also differ in style.
BLUE, ORANGE, GREEN, GRAY = "#0072B2", "#D55E00", "#009E73", "#595959"
# With more classes, the fields of a confusion matrix are small and hold the counts alone.
MANY_CLASSES = 12
BASELINE_LINES = ((GRAY, ":"), (GREEN, "--"), (ORANGE, "-."), (GRAY, "-"))


def save_figures(metrics: dict, folder: Path) -> None:
    """Write `curves.png`, `confusion_matrix.png` and `reliability.png`; `metrics` is the content of metrics.json."""
    folder.mkdir(parents=True, exist_ok=True)
    curves(metrics["history"], metrics["training"]["best_epoch"], folder / "curves.png")
    confusion_matrix(metrics, folder / "confusion_matrix.png")
    reliability(metrics, folder / "reliability.png")


def curves(history: list[dict], published: int, path: Path) -> Figure:
    """Draw loss and accuracy per epoch, with the image size of each stage and the `published` epoch.

    `history` has one dict per epoch: epoch, size (pixels), train_loss, train_accuracy, validation_loss,
    validation_accuracy, validation_macro_f1.
    """
    best = next(row for row in history if row["epoch"] == published)
    figure = Figure(figsize=(10, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_epochs(left, "Loss", history, ("train_loss", "validation_loss"))
    _draw_epochs(right, "Accuracy and macro-F1", history, ("train_accuracy", "validation_accuracy"))
    _plot(right, history, "validation_macro_f1", GREEN, "-.", "validation macro-F1")
    for axes in (left, right):
        axes.axvline(best["epoch"], ymax=0.92, color=GRAY, linewidth=1.2, linestyle=":", label="published epoch")
    figure.suptitle(
        f"Training and validation split: validation macro-F1 {best['validation_macro_f1']:.3f}, "
        f"published epoch {best['epoch']} of {history[-1]['epoch']}",
        fontsize=13,
    )
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=12, frameon=False)
    return save(figure, path)


def confusion_matrix(metrics: dict, path: Path) -> Figure:
    """Draw the confusion matrix of the test images, one row per true class, with counts and shares of the row.

    `metrics` is the content of metrics.json. scikit-learn's ConfusionMatrixDisplay writes one number per field, and on
    its linear color scale all errors of a good model look white.
    """
    test = metrics["test"]
    counts, label_names = np.array(test["confusion_matrix"]), test["label_names"]
    totals = counts.sum(1)
    shares = counts / totals.clip(min=1)[:, None]
    many = len(label_names) > MANY_CLASSES
    width, height = (0.42, 0.36) if many else (1.2, 1.1)
    figure = Figure(figsize=(1.9 + width * len(label_names), 1.7 + height * len(label_names)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.4, vmin=0, vmax=1), aspect="auto")
    for (row, column), count in np.ndenumerate(counts):
        share = shares[row, column]
        text, color = f"{count:,}\n{share:.1%}" if count and not many else f"{count:,}", "black"
        color = "white" if share > 0.25 else color
        if count or not many:
            axes.text(column, row, text, ha="center", va="center", fontsize=8 if many else 13, color=color)
    positions, between = range(len(label_names)), ", " if many else "\n"
    axes.set_xticks(positions, label_names, rotation=90 if many else 0)
    axes.set_yticks(positions, [f"{name}{between}n = {n:,}" for name, n in zip(label_names, totals, strict=True)])
    axes.tick_params(length=0, labelsize=9 if many else 12)
    axes.set_xlabel("predicted class", fontsize=12)
    axes.set_ylabel("true class", fontsize=12)
    axes.spines[:].set_visible(False)
    axes.set_title(_title("Confusion matrix", metrics, "accuracy"), fontsize=13)
    return save(figure, path)


def reliability(metrics: dict, path: Path) -> Figure:
    """Draw accuracy against top probability, bin by bin, above the number of test images in each bin.

    `metrics` is the content of metrics.json.
    """
    bins = [row for row in metrics["test"]["bins"] if row["count"]]
    centers = [(row["low"] + row["high"]) / 2 for row in bins]
    width = 0.92 * (bins[0]["high"] - bins[0]["low"])
    accuracies, counts = [row["accuracy"] for row in bins], [row["count"] for row in bins]
    figure = Figure(figsize=(6.6, 7), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[2.6, 1])

    upper.bar(centers, accuracies, width, color=BLUE, label="accuracy in the bin")
    points = {"color": ORANGE, "markeredgecolor": "white", "clip_on": False, "zorder": 3}
    means = [row["probability"] for row in bins]
    upper.plot(means, accuracies, "o", label="at the bin's mean probability", **points)
    upper.plot([0, 1], [0, 1], "--", color=GRAY, linewidth=1.5, label="perfect calibration")
    tidy(upper)
    upper.set_ylim(0, 1.03)
    upper.yaxis.set_major_formatter(PercentFormatter(1))
    upper.set_ylabel("accuracy", fontsize=12)
    upper.legend(fontsize=12, frameon=False, loc="upper left")
    upper.set_title(_title("Reliability", metrics, "ece"), fontsize=13)

    _draw_counts(lower, centers, counts, width)
    lower.set_xlim(0, 1.02)
    lower.xaxis.set_major_formatter(PercentFormatter(1))
    lower.set_xlabel("probability of the predicted class", fontsize=12)
    return save(figure, path)


def _draw_counts(axes: Axes, centers: list[float], counts: list[int], width: float) -> None:
    """Draw the number of images in each bin on a logarithmic scale."""
    axes.bar(centers, counts, width, color=GRAY)
    for center, count in zip(centers, counts, strict=True):
        axes.annotate(f"{count:,}", (center, count), (0, 2), textcoords="offset points", ha="center", fontsize=10)
    tidy(axes)
    axes.set_yscale("log")
    axes.set_ylim(0.7, max(counts) * 4)
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.minorticks_off()
    axes.set_ylabel("images", fontsize=12)


def explanation_quality(explanations: dict, path: Path) -> Figure:
    """Draw how good each method's maps are, one panel per measure, with lines at what the baselines score.

    `explanations` is the content of explanations.json.
    """
    methods, baselines = explanations["methods"], explanations["baselines"]
    figure = Figure(figsize=(12, 2.4 + 0.42 * len(methods)), layout="constrained")
    panels = figure.subplots(1, len(EXPLANATION_MEASURES), sharey=True)
    for axes, (measure, title) in zip(panels, EXPLANATION_MEASURES.items(), strict=True):
        for (name, entries), (color, style) in zip(baselines.items(), BASELINE_LINES, strict=True):
            value = entries[measure]["value"]
            axes.axvline(value, color=color, linestyle=style, linewidth=1.5, label=name.replace("_", " "))
        _draw_entries(axes, [entries[measure] for entries in methods.values()])
        axes.set_title(title, fontsize=12)
    panels[0].set_yticks(range(len(methods)), methods)
    panels[0].set_ylim(len(methods) - 0.4, -0.6)
    panels[0].xaxis.set_major_formatter(PercentFormatter(1))
    figure.suptitle(
        f"{explanations['checkpoint']['architecture']}: maps against tumor boxes, test images never trained on, "
        f"{explanations['target']} class explained, {explanations['interval']['level']:.0%} intervals",
        fontsize=13,
    )
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=11, frameon=False
    )
    return save(figure, path)


def _draw_entries(axes: Axes, entries: list[dict]) -> None:
    """Draw measured numbers from top to bottom, each with its interval and n."""
    values = np.array([entry["value"] for entry in entries])
    ends = np.array([[entry["low"], entry["high"]] for entry in entries]).T
    options = {"fmt": "o", "color": BLUE, "capsize": 3, "linewidth": 2, "label": "method"}
    axes.errorbar(values, range(len(entries)), xerr=np.abs(ends - values), **options)
    for position, entry in enumerate(entries):
        axes.annotate(
            f"n = {entry['n']}",
            (1, position),
            (-2, 6),
            xycoords=axes.get_yaxis_transform(),
            textcoords="offset points",
            ha="right",
            fontsize=9,
            color=GRAY,
        )
    tidy(axes)
    axes.margins(x=0.15)


def _title(what: str, metrics: dict, metric: str) -> str:
    """Return a title that names split, n and one metric with its interval."""
    test = metrics["test"]
    score = f"{METRIC_NAMES[metric]} {with_interval(test[metric])}"
    return f"{what}: test images, {metrics['split']} split, n = {test['n']:,}\n{score}"


def _draw_epochs(axes: Axes, title: str, history: list[dict], keys: tuple[str, str]) -> None:
    _plot(axes, history, keys[0], BLUE, "--", "training")
    _plot(axes, history, keys[1], ORANGE, "-", "validation")
    tidy(axes)
    axes.set_title(title, fontsize=12)
    axes.set_xlabel("epoch", fontsize=12)
    axes.set_xlim(history[0]["epoch"] - 0.5, history[-1]["epoch"] + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.margins(y=0.14)
    _mark_sizes(axes, history)


def _plot(axes: Axes, history: list[dict], key: str, color: str, style: str, label: str) -> None:
    epochs, values = [row["epoch"] for row in history], [row[key] for row in history]
    axes.plot(epochs, values, style, marker=".", color=color, linewidth=2, label=label)


def _mark_sizes(axes: Axes, history: list[dict]) -> None:
    """Separate the stages of different image size and name the size at the top of each."""
    size = None
    for row in history:
        if row["size"] == size:
            continue
        size, start = row["size"], row["epoch"] - 0.5
        axes.axvline(start, color="#BBBBBB", linewidth=1)
        axes.annotate(
            f"{size} px",
            (start, 1),
            (4, -2),
            xycoords=axes.get_xaxis_transform(),
            textcoords="offset points",
            va="top",
            fontsize=11,
            color=GRAY,
        )


def tidy(axes: Axes) -> None:
    """Draw a plain frame with horizontal lines."""
    axes.tick_params(labelsize=11)
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def save(figure: Figure, path: Path) -> Figure:
    """Write a figure as PNG and return it."""
    # Without matplotlib's version in the file, the same metrics give the same bytes.
    figure.savefig(path, dpi=130, format="png", metadata={"Software": None})
    return figure
