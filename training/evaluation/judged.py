"""Answers that are right or wrong, and how far their probabilities can be trusted."""

from dataclasses import dataclass

import numpy as np

from training.evaluation.metrics import Bootstrap, auroc, calibration_error, entry_of, reliability_bins
from training.evaluation.unseen import Part

# Of all answers, the share that is given when the least sure ones are left out.
COVERAGE = 0.9
COVERAGES = np.arange(4, 21) / 20  # of fewer answers the accuracy is mostly chance


@dataclass(frozen=True)
class Judged:
    """Answers to a question: `confidence` float [n], their probability; `right` bool [n]; `units` as in `Part`."""

    confidence: np.ndarray
    right: np.ndarray
    units: np.ndarray


def judge(probabilities: np.ndarray, part: Part, no_tumor: int) -> dict[str, Judged]:
    """Judge the answers with `probabilities` [n, classes] to two questions.

    "tumor_or_not" asks only whether there is a tumor: another tumor class is right, too, and their probabilities add
    up. "class" asks for the class and is missing where that of a scan is not known.
    """
    answers, healthy = probabilities.argmax(axis=1), probabilities[:, no_tumor]
    called_tumor = answers != no_tumor
    confidence = np.where(called_tumor, 1 - healthy, healthy)
    judged = {"tumor_or_not": Judged(confidence, called_tumor == ~part.allowed[:, no_tumor], part.units)}
    if (part.allowed.sum(axis=1) == 1).all():
        right = part.allowed[np.arange(len(part)), answers]
        judged["class"] = Judged(probabilities.max(axis=1), right, part.units)
    return judged


def share(values: np.ndarray, units: np.ndarray, seed: int) -> dict:
    """Return the mean of `values` [n] with its 95 % bootstrap interval by unit, n and the number of units."""
    return entry_of(share_samples(values, units, seed)) | {"n": len(values), "units": len(np.unique(units))}


def share_samples(values: np.ndarray, units: np.ndarray, seed: int) -> np.ndarray:
    """Return the mean of `values` [n], then that of every bootstrap sample."""
    weights = Bootstrap(seed=seed).weights(units)
    return weights @ values / weights.sum(axis=1).clip(min=1)


def trust_in(judged: Judged, seed: int) -> dict:
    """Measure how far the probabilities of answers can be trusted.

    Returns:
        `accuracy`; `ece`; `auroc`, how often a right answer is surer than a wrong one, None without errors;
        `accuracy_at_coverage`, that of the surest `coverage` of the answers; `curve`, a list of such pairs of coverage
        and accuracy; `bins` for a reliability diagram; `n` and `units`.
    """
    weights = Bootstrap(seed=seed).weights(judged.units)
    confidence, right = judged.confidence, judged.right
    return {
        "accuracy": entry_of(accuracy_at(weights, judged, 1.0)),
        "ece": entry_of(calibration_error(weights, confidence, right)),
        "auroc": entry_of(auroc(weights, confidence, right)),
        "coverage": COVERAGE,
        "accuracy_at_coverage": entry_of(accuracy_at(weights, judged, COVERAGE)),
        "curve": [[float(part), float(accuracy_at(weights[:1], judged, part)[0])] for part in COVERAGES],
        "bins": reliability_bins(confidence, right),
        "n": len(right),
        "units": len(np.unique(judged.units)),
    }


def accuracy_at(weights: np.ndarray, judged: Judged, coverage: float) -> np.ndarray:
    """Return the accuracy of the surest answers for every row of weights, [rows].

    Args:
        weights: How often each answer counts, [rows, n].
        judged: The answers.
        coverage: Their share that is kept, above 0 to 1; of equally sure ones, each is kept in part.
    """
    order = np.argsort(-judged.confidence, kind="stable")
    starts = np.flatnonzero(np.diff(-judged.confidence[order], prepend=-np.inf))
    counted, right = (
        np.add.reduceat(weights[:, order] * values, starts, axis=1).cumsum(axis=1)
        for values in (1.0, judged.right[order])
    )
    kept = coverage * counted[:, -1]
    rows = (
        np.interp(limit, np.concatenate([[0], x]), np.concatenate([[0], y]))
        for limit, x, y in zip(kept, counted, right, strict=True)
    )
    return np.fromiter(rows, dtype=float, count=len(weights)) / kept
