"""Choose how maps are blurred before areas are looked for, and how small an area may be, on boxed validation scans.

    python tests/benchmarks/areas.py --data-dir DIR --boxes DIR/boxes.csv [--checkpoint bundled/resnet18] [--limit 60]

Prints for each method, blur and smallest area: how many maps have an area at all, how often the first one overlaps the
radiologists' box, and how many areas per map lie outside of it. The first should stay high and the last become small.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this script is started by its path
from PIL import Image

from brain_xai import explain, load_checkpoint
from brain_xai.areas import LEVEL, blurred
from brain_xai.framing import connected_parts
from training.evaluation.held_out import for_views, held_out_scans
from training.evaluation.unseen import training_settings

BLURS = (0.005, 0.01, 0.015, 0.02, 0.03)
MIN_SHARES = (0.0, 0.001, 0.002, 0.004)
METHODS = ("grad_cam", "saliency", "smooth_grad", "integrated_gradients")


def parts_of(attribution: np.ndarray, scale: float, blur: float) -> list[tuple[float, float, np.ndarray]]:
    """Return (evidence, share of the map, mask) of each connected area at half of full color, most evidence first."""
    strength = blurred(attribution.clip(min=0), blur) / (LEVEL * scale)
    labels = connected_parts(strength >= 1)
    masks = [labels == label for label in np.unique(labels[labels > 0])]
    parts = [(float(strength[mask].sum()), float(mask.mean()), mask) for mask in masks]
    return sorted(parts, key=lambda part: -part[0])


def in_box(mask: np.ndarray, box: np.ndarray) -> bool:
    """Return whether an area overlaps a box, given in fractions of width and height."""
    height, width = mask.shape
    left, top, right, bottom = (box * (width, height, width, height)).round().astype(int)
    return bool(mask[top:bottom, left:right].any())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--boxes", required=True)
    parser.add_argument("--checkpoint", default="default")
    parser.add_argument("--limit", type=int, default=60)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    settings = parser.parse_args()
    classifier = load_checkpoint(settings.checkpoint)
    training = training_settings(classifier.info.id)
    scans = held_out_scans(classifier, training, settings.data_dir, settings.boxes)["validation"]
    classifier = for_views(classifier)
    count = min(settings.limit, len(scans))
    print(f"{classifier.info.id}: {count} of {len(scans)} validation scans with a box")
    print(f"{'method':22}{'blur':>7}{'smallest':>10}{'with area':>11}{'first in box':>14}{'outside':>9}")
    for method in settings.methods:
        found: dict[tuple[float, float], list[tuple[bool, bool, int]]] = {}
        for pixels, box, label in zip(scans.pixels[:count], scans.boxes, scans.labels, strict=False):
            shown = explain(classifier, Image.fromarray(pixels), method, int(label))
            for blur in BLURS:
                parts = parts_of(shown.attribution, shown.scale, blur)
                for smallest in MIN_SHARES:
                    inside = [in_box(mask, box) for _, share, mask in parts if share >= smallest]
                    found.setdefault((blur, smallest), []).append(
                        (bool(inside), bool(inside) and inside[0], inside.count(False))
                    )
        for (blur, smallest), rows in found.items():
            some, first, outside = np.array(rows, dtype=float).mean(axis=0)
            print(f"{method:22}{blur:7.3f}{smallest:10.3f}{some:11.2f}{first:14.2f}{outside:9.2f}")


if __name__ == "__main__":
    main()
