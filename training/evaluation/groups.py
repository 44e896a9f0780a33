"""Groups of scans in each of which a checkpoint should be right: kinds from elsewhere, test images that look alike."""

import numpy as np

from training.evaluation.appearance import clusters, cues_of_view
from training.evaluation.judged import Judged, judge, share, share_samples
from training.evaluation.metrics import entry_of
from training.evaluation.unseen import TEST, Part, Unseen

# Scans that a group must have to be the worst one.
MIN_SCANS = 20


def recognized(part: Part, probabilities: np.ndarray, no_tumor: int, seed: int) -> dict:
    """Return how often tumor and no tumor are told apart rightly, and how often the class is right where known."""
    judged = judge(probabilities, part, no_tumor)
    return {question: share(answers.right, part.units, seed) for question, answers in judged.items()}


def gained(before: dict[str, Judged], after: dict[str, Judged], seed: int) -> dict:
    """Return how many more answers to each question are right in `after`, as a share of all."""
    return {
        question: share(after[question].right.astype(float) - before[question].right, before[question].units, seed)
        for question in before
    }


def alike(unseen: Unseen, probabilities: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Divide the test images by their look; int64 indices into the test split, the best recognized group first."""
    part = unseen.kinds[TEST]
    cluster = clusters(unseen.main.thumbnails[unseen.splits.test], seed)
    right = judge(probabilities, part, unseen.no_tumor)["class"].right
    order = sorted(np.unique(cluster).tolist(), key=lambda index: -right[cluster == index].mean())
    return {f"look {number}": np.flatnonzero(cluster == index) for number, index in enumerate(order, start=1)}


def describe_clusters(unseen: Unseen, probabilities: np.ndarray, looks: dict[str, np.ndarray], seed: int) -> dict:
    """Return for each look how often the answers are right, how many images of each class it holds, and its looks."""
    part, result = unseen.kinds[TEST], {}
    for name, indices in looks.items():
        thumbnails = unseen.main.thumbnails[unseen.splits.test[indices]]
        counts = part.allowed[indices].sum(axis=0).tolist()
        result[name] = recognized(part.take(indices), probabilities[indices], unseen.no_tumor, seed) | {
            "classes": dict(zip(unseen.main.label_names, counts, strict=True)),
            "brightness": float(thumbnails.mean() / 255),
            "filled": float(cues_of_view(thumbnails)["framing"][:, 0].mean()),
        }
    return result


def groups_of(unseen: Unseen, answers: dict[str, np.ndarray], looks: dict[str, np.ndarray]) -> dict[str, Judged]:
    """Return the groups none of which may be bad: kinds from elsewhere, and each look with and without a tumor.

    Apart, because in a look of mostly healthy scans the few tumors may all be missed without anybody seeing it. Groups
    of fewer than `MIN_SCANS` scans are left out: their accuracy is mostly chance.
    """
    test = unseen.kinds[TEST]
    parts = {kind: (answers[kind], part) for kind, part in unseen.kinds.items() if kind != TEST}
    for name, indices in looks.items():
        healthy = test.allowed[indices, unseen.no_tumor]
        for label, chosen in (("tumor", indices[~healthy]), ("no tumor", indices[healthy])):
            parts[f"{name}, {label}"] = answers[TEST][chosen], test.take(chosen)
    return {
        name: judge(probabilities, part, unseen.no_tumor)["tumor_or_not"]
        for name, (probabilities, part) in parts.items()
        if len(part) >= MIN_SCANS
    }


def worst_and_mean(groups: dict[str, Judged], seed: int) -> dict:
    """Return the lowest share of rightly told tumors and healthy scans of all groups, and the mean of the groups."""
    if not groups:
        return {}
    name = min(groups, key=lambda group: groups[group].right.mean())
    worst = share(groups[name].right, groups[name].units, seed)
    # A seed of its own for each group: otherwise groups of equal size would be drawn in the same way.
    samples = [
        share_samples(group.right, group.units, seed + number) for number, group in enumerate(groups.values(), start=1)
    ]
    return {
        "worst": {"name": name} | worst,
        "mean": entry_of(np.mean(samples, axis=0)) | {"groups": len(groups)},
    }
