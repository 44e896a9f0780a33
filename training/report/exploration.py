"""The HTML page about a data set, with pictures; self-contained, to be opened from disk."""

import base64
import io
from collections.abc import Iterable
from pathlib import Path

import jinja2
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from training.evaluation.exploration import Exploration
from training.report.figures import BLUE, GRAY, GREEN, ORANGE

# How many outliers, conflicts and largest groups are shown.
SHOWN = 24
COLORS = (BLUE, ORANGE, GREEN, GRAY, "#CC79A7", "#E69F00")


def exploration_page(found: Exploration, title: str) -> str:
    """Return the page as HTML.

    Args:
        found: What was found.
        title: The name of the data set.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        autoescape=True,
    )
    scans = found.scans
    return environment.get_template("exploration.html.jinja").render(
        title=title,
        scans=scans,
        classes=_classes(found),
        copies=found.copies,
        conflicts=[_pictures(found, conflict["images"][:6]) for conflict in found.copies["conflicts"][:SHOWN]],
        largest=_largest_groups(found),
        outliers=[_picture(found, index) | {"note": measure} for index, measure in found.outliers[:SHOWN]],
        outlier_count=len(found.outliers),
        cues=found.cues,
        chance=1 / len(scans.label_names),
        looks=_data_url(_looks_figure(found)),
    )


def _classes(found: Exploration) -> list[dict]:
    """Return one row per class: counts, medians, modes and samples."""
    rows = []
    for index, name in enumerate(found.scans.label_names):
        members = found.scans.labels == index
        medians = {measure: float(np.median(values[members])) for measure, values in found.measures.items()}
        rows.append(
            {
                "name": name,
                "count": int(members.sum()),
                "distinct": len(np.unique(found.groups[members])),
                "test": int((members & (found.scans.official_split == "test")).sum()),
                "medians": medians,
                "sizes": len({*zip(found.measures["width"][members], found.measures["height"][members], strict=True)}),
                "modes": found.modes[name],
                "samples": _pictures(found, found.samples[name]),
            }
        )
    return rows


def _largest_groups(found: Exploration) -> list[dict]:
    """Return the images that most files show, with the number of files and their labels."""
    counts = np.bincount(found.groups)
    groups = []
    for group in np.argsort(-counts, kind="stable")[: SHOWN // 2]:
        if counts[group] > 1:
            members = np.flatnonzero(found.groups == group)
            groups.append(_picture(found, members[0]) | {"note": f"{counts[group]} files"})
    return groups


def _pictures(found: Exploration, indices: Iterable[int]) -> list[dict]:
    return [_picture(found, index) for index in indices]


def _picture(found: Exploration, index: int) -> dict:
    """Return an image as a data URL with its label and file name."""
    buffer = io.BytesIO()
    Image.fromarray(found.scans.thumbnails[index]).save(buffer, "JPEG", quality=80)
    scans = found.scans
    return {
        "url": f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}",
        "label": scans.label_names[scans.labels[index]],
        "file": scans.files[index],
    }


def _looks_figure(found: Exploration) -> Figure:
    """Draw how brightness, contrast, sharpness and size are distributed in each class."""
    figure = Figure(figsize=(14, 3.2), layout="constrained")
    *histograms, sizes = figure.subplots(1, 4)
    for index, name in enumerate(found.scans.label_names):
        members, color = found.scans.labels == index, COLORS[index % len(COLORS)]
        for axes, measure in zip(histograms, ("brightness", "contrast", "sharpness"), strict=True):
            edges = np.histogram_bin_edges(found.measures[measure], bins=40)
            style = {"histtype": "step", "density": True, "color": color, "linewidth": 1.6}
            axes.hist(found.measures[measure][members], bins=edges, label=name, **style)
            axes.set_title(measure)
            axes.set_yticks([])
        width, height = (found.measures[side][members] for side in ("width", "height"))
        sizes.plot(width, height, ".", color=color, alpha=0.4, label=name)
    sizes.set_title("width and height, pixels")
    sizes.legend(fontsize=9, frameon=False)
    for axes in (*histograms, sizes):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _data_url(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
