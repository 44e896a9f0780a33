"""Measure how good maps become with time: occlusion by its windows, SmoothGrad and integrated gradients by passes.

    python tests/benchmarks/curves.py --data-dir DIR --boxes DIR/boxes.csv --output DIR [--model bundled/resnet18]

Reads validation images with a tumor box, never test images. Occlusion is compared with Captum's, 15-pixel windows every
8 pixels, one per pass; the others with themselves at many passes. Time is processor time of one thread, because no
machine is ever quiet. Writes `<model>.md` and `<model>.png`.
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this script is started by its path
from brain_xai import METHODS, load_checkpoint, quality
from brain_xai.methods.request import Request
from tests.helpers.costs import Costs
from training.evaluation.held_out import for_views
from training.explanations import MapSettings, build_benchmark

GRIDS, SIDE = ((15, 8), (32, 10), (32, 16)), 160  # window and stride in pixels of an image of this side
REACHES = (None, 3, 2, 1)
SAMPLES, MANY_SAMPLES = (2, 4, 8, 16), 32
STEPS, MANY_STEPS = (2, 4, 8, 16, 32), 64
DEFAULTS = ("32/10, exact", "8 samples", "16 steps")
CAPTUM = "Captum 15/8"
COLORS = {"occlusion": "tab:blue", "smooth_grad": "tab:orange", "integrated_gradients": "tab:green"}
HEADER = "| method | settings | passes | CPU s | faster | rank correlation: mean, least | pointing game | energy |"


@dataclass(frozen=True)
class Case:
    """One way to make a map.

    Attributes:
        method: A key of METHODS.
        name: Its settings, for people.
        attribute: Makes the map.
        reference: Whether the other cases of the method are compared with this one.
    """

    method: str
    name: str
    attribute: Callable[[Request], np.ndarray]
    reference: bool = False


@dataclass(frozen=True)
class Found:
    """What one case measured, each a mean over the images; `least` is the worst rank correlation."""

    case: Case
    passes: float
    seconds: float
    rank: float
    least: float
    pointing: float
    energy: float


def main() -> None:
    """Measure, write the table and the figure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--boxes", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model", default="bundled/resnet18")
    parser.add_argument("--images", type=int, default=12)
    settings = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    classifier = load_checkpoint(settings.model)
    benchmark = build_benchmark(MapSettings(settings.model, settings.data_dir, settings.boxes), classifier)
    scans = benchmark.sets["validation"]
    requests = [
        Request(for_views(classifier), for_views(classifier).prepare(image).pixel_values, int(target))
        for image, target in zip(scans.pixels[: settings.images], scans.labels, strict=False)
    ]
    boxes = [quality.pixel_box(box.tolist(), requests[0].size) for box in scans.boxes[: len(requests)]]
    found = measure(cases(), requests, boxes)
    text = table(found, f"{settings.model}, {len(requests)} validation images with a tumor box, one thread")
    name = settings.model.split("/")[-1]
    settings.output.mkdir(parents=True, exist_ok=True)
    (settings.output / f"{name}.md").write_text(text + "\n", encoding="utf-8")
    draw(found, settings.output / f"{name}.png")
    print(text)


def cases() -> list[Case]:
    """Return what is measured; the reference of each method first."""

    def by(method: str, **options: object) -> Callable[[Request], np.ndarray]:
        return lambda request: METHODS[method].attribute(request, **options)[0]

    def windows(window: int, stride: int, reach: int | None) -> Callable[[Request], np.ndarray]:
        return by("occlusion", window=window / SIDE, stride=stride / SIDE, reach=reach)

    return [
        Case("occlusion", CAPTUM, captum_occlusion, True),
        *(
            Case("occlusion", f"{window}/{stride}, {'exact' if reach is None else f'reach {reach}'}", attribute)
            for window, stride in GRIDS
            for reach in REACHES
            for attribute in [windows(window, stride, reach)]
        ),
        Case("smooth_grad", f"{MANY_SAMPLES} samples", by("smooth_grad", samples=MANY_SAMPLES, seed=1), True),
        *(Case("smooth_grad", f"{samples} samples", by("smooth_grad", samples=samples)) for samples in SAMPLES),
        Case("integrated_gradients", f"{MANY_STEPS} steps", by("integrated_gradients", steps=MANY_STEPS), True),
        *(Case("integrated_gradients", f"{steps} steps", by("integrated_gradients", steps=steps)) for steps in STEPS),
    ]


def captum_occlusion(request: Request) -> np.ndarray:
    """Compute Captum's map of the finest grid, one window per pass."""
    from captum.attr import Occlusion

    window, stride = (pixels * request.size[0] // SIDE for pixels in GRIDS[0])
    shape, steps = (3, window, window), (3, stride, stride)
    options = {"baselines": request.classifier.black, "target": request.target}
    return Occlusion(request.classifier.model).attribute(request.pixel_values, shape, steps, **options)[0, 0].numpy()


def measure(cases: list[Case], requests: list[Request], boxes: list) -> list[Found]:
    """Measure every case on every image."""
    found, references = [], {}
    with Costs() as costs:
        requests[0].classifier.logits(requests[0].pixel_values)
    for case in cases:
        case.attribute(requests[0])  # what is done once does not count
        started = time.process_time()
        maps = [case.attribute(request) for request in requests]
        seconds = (time.process_time() - started) / len(requests)
        with Costs() as its_costs:
            case.attribute(requests[0])
        if case.reference:
            references[case.method] = maps
        ranks = [
            spearmanr(one.ravel(), other.ravel()).statistic
            for one, other in zip(maps, references[case.method], strict=True)
        ]
        pointing, energy = (
            np.mean([quality_of(one, box) for one, box in zip(maps, boxes, strict=True)])
            for quality_of in (quality.pointing_game, quality.energy_in_box)
        )
        passes = its_costs.flops / costs.flops
        found.append(Found(case, passes, seconds, float(np.mean(ranks)), min(ranks), float(pointing), float(energy)))
        print(f"{case.method}, {case.name}: {seconds:.2f} s", file=sys.stderr)
    return found


def table(found: list[Found], caption: str) -> str:
    """Return the measurements as a Markdown table; the defaults are bold."""
    references = {entry.case.method: entry.seconds for entry in found if entry.case.reference}
    lines = [f"{caption}. Faster: than the first line of the method.", "", HEADER, "| --- | --- |" + " ---: |" * 6]
    for entry in found:
        name = f"**{entry.case.name}**" if entry.case.name in DEFAULTS else entry.case.name
        cells = (
            entry.case.method,
            name,
            f"{entry.passes:.0f}",
            f"{entry.seconds:.2f}",
            f"{references[entry.case.method] / entry.seconds:.1f}",
            f"{entry.rank:.2f}, {entry.least:.2f}",
            f"{entry.pointing:.2f}",
            f"{entry.energy:.2f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(found: list[Found], path: Path) -> None:
    """Draw agreement with the reference and the pointing game over time, the defaults ringed."""
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for panel, measure_name, title in zip(
        panels, ("rank", "pointing"), ("rank correlation with the reference", "pointing game"), strict=True
    ):
        for method, color in COLORS.items():
            entries = sorted((entry for entry in found if entry.case.method == method), key=lambda entry: entry.seconds)
            times, values = [entry.seconds for entry in entries], [getattr(entry, measure_name) for entry in entries]
            panel.plot(times, values, "o", color=color, label=METHODS[method].title)
            best = np.maximum.accumulate(values)
            panel.step(times, best, where="post", color=color, alpha=0.4)
            for entry, x, y in zip(entries, times, values, strict=True):
                if entry.case.name in DEFAULTS:
                    panel.plot(x, y, "o", markersize=13, markerfacecolor="none", color=color)
                if y == best[times.index(x)]:
                    panel.annotate(entry.case.name, (x, y), fontsize=6, xytext=(3, 3), textcoords="offset points")
        panel.set(xscale="log", xlabel="CPU seconds per map, one thread", ylabel=title)
    panels[0].legend(loc="lower right", fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
