"""How good the maps are on held-out scans of other sources, kind by kind."""

from collections.abc import Sequence

import numpy as np

from brain_xai.classifier import Classifier
from brain_xai.framing import frame
from brain_xai.preprocess import read_image
from training.data.boxes import boxes_in_frame, load_boxes
from training.data.sources import DataError
from training.evaluation.held_out import BoxedScans, for_views
from training.evaluation.map_quality import SUBGROUP_MEASURES, Benchmark, baselines, localize, summarize
from training.evaluation.unseen import TEST, Unseen


def boxed_elsewhere(unseen: Unseen, framed: bool, boxes: str, seed: int) -> tuple[BoxedScans, np.ndarray]:
    """Return the held-out scans of known class with a box, in an order drawn by seed, and the kind of each.

    Args:
        unseen: The held-out scans of other sources.
        framed: Whether their pixels are cropped to the head.
        boxes: CSV file; its names are relative to the folder of the source.
        seed: Seed of the order.

    Raises:
        DataError: The file cannot be read, or no held-out scan has a box.
    """
    parts = {kind: part for kind, part in unseen.kinds.items() if kind != TEST}
    parts = {kind: part for kind, part in parts.items() if (part.allowed.sum(axis=1) == 1).all()}
    if not parts:
        raise DataError("No scan of a known class was held out of the other sources. Name them with --source.")
    kinds = np.repeat(list(parts), [len(part) for part in parts.values()])
    files = [file for part in parts.values() for file in part.files]
    names = [file.relative_to(unseen.folders[kind]).as_posix() for file, kind in zip(files, kinds, strict=True)]
    coordinates = load_boxes(boxes, names)
    pixels, allowed, units = (
        np.concatenate([getattr(part, name) for part in parts.values()]) for name in ("pixels", "allowed", "units")
    )
    order = np.random.default_rng(seed).permutation(np.flatnonzero(~np.isnan(coordinates).any(axis=1)))
    frames = [frame(read_image(files[i])).part if framed else (0.0, 0.0, 1.0, 1.0) for i in order]
    coordinates = boxes_in_frame(coordinates[order], np.array(frames, dtype=np.float32))
    labels = allowed[order].argmax(axis=1)
    return BoxedScans(pixels[order], coordinates, labels, units[order], [str(files[i]) for i in order]), kinds[order]


def measure_elsewhere(
    classifier: Classifier, scans: BoxedScans, kinds: np.ndarray, methods: Sequence[str], limit: int | None, seed: int
) -> dict[str, dict]:
    """Measure where the maps of the true class lie, with maps that know nothing of the model for comparison.

    Returns:
        {kind: {"n", "units", "methods", "baselines"}}; both last hold the localization by method or baseline.
    """
    views = for_views(classifier)  # framed again, the images would move in their boxes
    benchmark = Benchmark(views, {TEST: scans}, {TEST: scans.labels}, limit, seed)
    candidates = {"methods": [benchmark.method(method) for method in methods], "baselines": baselines()}
    located = {
        group: {candidate.name: localize(benchmark, candidate, TEST) for candidate in members}
        for group, members in candidates.items()
    }
    results = {}
    for kind in np.unique(kinds).tolist():
        members = kinds == kind
        results[kind] = {"n": int(members.sum()), "units": len(np.unique(scans.groups[members]))}
        for group, per_candidate in located.items():
            results[kind][group] = {
                name: summary
                for name, rows in per_candidate.items()
                if (summary := _summary_of(benchmark, rows, members)) is not None
            }
    return results


def _summary_of(benchmark: Benchmark, rows: dict[str, np.ndarray], members: np.ndarray) -> dict | None:
    """Return the means over the images that are `members`, None where none was measured."""
    inside = members[rows["image"]]
    if not inside.any():
        return None
    summary = summarize(benchmark, {measure: column[inside] for measure, column in rows.items()})
    return {measure: summary[measure] for measure in SUBGROUP_MEASURES}
