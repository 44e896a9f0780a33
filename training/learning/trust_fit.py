"""Fit what recognizes images unlike the training scans: distances, two linear scores, and all thresholds."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from brain_xai.classifier import Classifier
from brain_xai.gate import Gate, expanded
from brain_xai.trust import Trust
from training.data.foreign_images import KINDS

AXES = 48
# Inverse strength of the penalty on the gate's weights.
PENALTY = 0.01
# Families of foreign images that still show a brain: unusual rather than none.
STILL_A_BRAIN = ("turned", "inverted")
# Shares of the validation scans beyond each limit: of the distance (unusual, no brain MRI) and of the gate's scores (no
# brain MRI, unusual). They overlap: together less than 1 % are warned about.
UNUSUAL_DISTANCE, FOREIGN_DISTANCE = 0.003, 0.001
FOREIGN_SCORE, UNUSUAL_SCORE = 0.008, 0.002
# Share of the right answers on validation that may be called close, or have strong evidence against them.
DOUBTED = 0.02


@dataclass(frozen=True)
class Described:
    """What trust judges n images by: `features` [n, d], `measures` [n, m], `probabilities` [n, classes], `evidence` [n]
    against "no tumor", and whether each is `plain`, bool [n], by the rules that need no fit.
    """

    features: np.ndarray
    measures: np.ndarray
    probabilities: np.ndarray
    evidence: np.ndarray
    plain: np.ndarray

    def take(self, chosen: np.ndarray) -> "Described":
        """Return the images at the indices `chosen`, or where it is true."""
        return Described(**{name: values[chosen] for name, values in vars(self).items()})


def describe(classifier: Classifier, images: Iterable[Any]) -> Described:
    """Describe images (paths or PIL images) by one forward pass each."""
    rows = []
    for image in images:
        model_input = classifier.prepare(image)
        looks = model_input.looks
        seen = classifier.seen(classifier.forward(model_input.pixel_values), looks)
        rows.append((seen.features, seen.measures, seen.probabilities, seen.evidence_against, looks.plainly_foreign))
    return Described(*(np.array(column) for column in zip(*rows, strict=True)))


def joined(parts: Iterable[Described]) -> Described:
    """Return the images of several parts in one row."""
    columns = zip(*(vars(part).values() for part in parts), strict=True)
    return Described(*(np.concatenate(column) for column in columns))


def fit_distance(features: np.ndarray, kinds: np.ndarray, axes: int = AXES) -> Trust:
    """Fit distances to training scans, float [n, d], of `kinds` int [n]; the thresholds are still infinite."""
    mean, scale = features.mean(axis=0), features.std(axis=0).clip(min=1e-3)
    scaled = (features - mean) / scale
    # Directions by falling variance.
    directions = np.linalg.svd(scaled, full_matrices=False)[2][: min(axes, features.shape[1] - 1)].T
    along = scaled @ directions
    centers = np.stack([along[kinds == kind].mean(axis=0) for kind in np.unique(kinds)])
    spread = (along - centers[np.unique(kinds, return_inverse=True)[1]]).std(axis=0).clip(min=1e-3)
    rest = (scaled**2).sum(axis=1) - (along**2).sum(axis=1)
    return Trust(mean, scale, directions, spread, float(np.sqrt(rest.mean())), centers, np.inf, np.inf)


def fit_gate(trust: Trust, scans: Described, foreign: Mapping[str, Described]) -> Gate:
    """Fit the two scores on training scans and on foreign images by kind; the limits are still infinite."""
    own = trust.inputs(scans.features, scans.measures)
    mean, scale = own.mean(axis=0), own.std(axis=0).clip(min=1e-3)
    rows, biases = [], []
    for still_a_brain in (False, True):
        others = joined(part for kind, part in foreign.items() if is_brain(kind) == still_a_brain)
        inputs = np.concatenate([own, trust.inputs(others.features, others.measures)])
        is_foreign = np.arange(len(inputs)) >= len(own)
        model = LogisticRegression(C=PENALTY, class_weight="balanced", max_iter=300)
        model.fit(expanded(inputs, mean, scale), is_foreign)
        rows.append(model.coef_[0])
        biases.append(model.intercept_[0])
    return Gate(mean, scale, np.stack(rows), np.array(biases), np.array([np.inf, np.inf]))


def is_brain(kind: str) -> bool:
    """Return whether foreign images of a kind still show a brain."""
    return KINDS[kind].family in STILL_A_BRAIN


def stored(trust: Trust) -> Trust:
    """Return what a checkpoint keeps of the numbers, so that thresholds fit what users get; limits may be infinite."""

    def half(values: np.ndarray) -> np.ndarray:
        return values.astype(np.float16).astype(float)

    gate = trust.gate and Gate(**{name: half(values) for name, values in vars(trust.gate).items()})
    return replace(
        trust,
        gate=gate,
        **{name: half(getattr(trust, name)) for name in ("mean", "scale", "axes", "spread", "centers")},
    )


def with_thresholds(trust: Trust, validation: Described, right: np.ndarray, healthy: np.ndarray) -> Trust:
    """Set the thresholds on validation scans: whether their answers are `right` and say "no tumor", both bool [n]."""
    distances = trust.distance(validation.features)
    limits = {
        "unusual": _beyond(distances, UNUSUAL_DISTANCE),
        "not_brain_mri": _beyond(distances, FOREIGN_DISTANCE),
        "low_margin": float(np.quantile(margins(validation)[right], DOUBTED)),
    }
    if (right & healthy).any():
        limits["evidence_against"] = _beyond(validation.evidence[right & healthy], DOUBTED)
    if trust.gate is not None:
        scores = trust.gate.scores(trust.inputs(validation.features, validation.measures))
        beyond = [_beyond(scores[:, column], share) for column, share in enumerate((FOREIGN_SCORE, UNUSUAL_SCORE))]
        # Rounded up to half precision, in which it is stored.
        limits["gate"] = replace(trust.gate, limits=np.nextafter(np.float16(beyond), np.float16(np.inf)).astype(float))
    return replace(trust, **limits)


def margins(described: Described) -> np.ndarray:
    """Return the difference of the two highest probabilities, float [n]."""
    ordered = np.sort(described.probabilities, axis=1)
    return ordered[:, -1] - ordered[:, -2]


def told(trust: Trust, described: Described) -> dict[str, np.ndarray]:
    """Return which images get each warning, {code: bool [n]}."""
    distances = trust.distance(described.features)
    foreign, unusual = described.plain | (distances >= trust.not_brain_mri), distances >= trust.unusual
    if trust.gate is not None:
        beyond = trust.gate.scores(trust.inputs(described.features, described.measures)) >= trust.gate.limits
        foreign, unusual = foreign | beyond[:, 0], unusual | beyond[:, 1]
    against = np.inf if trust.evidence_against is None else trust.evidence_against
    return {
        "not_brain_mri": foreign,
        "unusual_scan": unusual & ~foreign,
        "low_margin": margins(described) < (trust.low_margin or 0.0),
        "evidence_against": described.evidence >= against,
    }


def warned(trust: Trust, described: Described) -> np.ndarray:
    """Return which images are called unusual or no brain MRI, bool [n]."""
    codes = told(trust, described)
    return codes["not_brain_mri"] | codes["unusual_scan"]


def share(hits: np.ndarray) -> dict:
    """Return a share with its 95 % Wilson interval, {"value", "low", "high", "n"}; also good for none of many."""
    n, value, z = len(hits), float(np.mean(hits)), 1.96
    middle = (value + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(value * (1 - value) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return {"value": value, "low": max(float(middle - half), 0.0), "high": min(float(middle + half), 1.0), "n": n}


def _beyond(values: np.ndarray, share: float) -> float:
    """Return a limit that `share` of the values reach: halfway between two of them, above all for less than one."""
    ordered = np.sort(values)[::-1]
    count = int(share * len(ordered))
    if count == 0:
        return float(ordered[0] + 1e-3 * max(abs(ordered[0]), 1.0))
    return float((ordered[count - 1] + ordered[count]) / 2)
