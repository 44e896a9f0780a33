"""Whether an answer can be trusted: images unlike all that a checkpoint was trained on, and close calls.

An image is described by the pooled features of the model and a few plain measures of its view. Its distance from the
nearest kind of training scan (class and source) tells whether it is a brain MRI at all. Everything is fitted in
training and stored in the checkpoint.

Reference: Lee et al. 2018, "A simple unified framework for detecting out-of-distribution samples", arXiv 1807.03888.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from brain_xai.gate import Gate, packed, unpacked

MESSAGES = {
    "not_brain_mri": "This does not look like a brain MRI. The answer means nothing.",
    "unusual_scan": "This scan is unlike those that the model was trained on. The answer may well be wrong.",
    "low_margin": "This answer is not clear: a second one is likely, too.",
    "evidence_against": 'One part of this scan speaks strongly against "no tumor". A tumor is possible.',
    "methods_disagree": "The methods point to different places. Do not rely on any one of these maps.",
}
# With one of these, the honest answer is "cannot say".
CANNOT_SAY = ("not_brain_mri", "unusual_scan", "low_margin")
# How many distances the gate looks at.
DISTANCES = 2

# Fields of `Trust` in a checkpoint; a threshold that is left out stands for a warning that is never given.
ARRAYS = ("mean", "scale", "axes", "spread", "centers")
NUMBERS = ("residual", "unusual", "not_brain_mri")
OPTIONAL = ("low_margin", "evidence_against", "methods_disagree")


@dataclass(frozen=True)
class Seen:
    """What the warnings about one image follow from.

    Attributes:
        features: Float [d], the model's pooled features and `Looks.view`.
        measures: Float [m], see `brain_xai.looks`.
        probabilities: One per class.
        evidence_against: The strongest evidence against a recognized "no tumor", see `brain_xai.doubts`.
    """

    features: np.ndarray
    measures: np.ndarray
    probabilities: list[float]
    evidence_against: float = 0.0


@dataclass(frozen=True)
class Trust:
    """What a checkpoint knows about the images that it was trained on.

    Attributes:
        mean: Float [d], of the training scans.
        scale: Float [d] > 0, by which the difference from the mean is divided.
        axes: Float [d, k], orthonormal: the directions in which training scans differ most.
        spread: Float [k] > 0: how far scans of one kind lie from its center along each axis.
        residual: How far scans lie off the axes.
        centers: Float [kinds, k], each kind of training scan.
        unusual: Distance from which a scan is unusual.
        not_brain_mri: Distance from which an image is no brain MRI.
        low_margin: Difference of the two highest probabilities below which a call is close.
        evidence_against: Multiple of the map's scale from which evidence against "no tumor" is strong; see `doubts`.
        methods_disagree: Share of methods from which they disagree; see `doubts`.
        gate: What tells other images apart; None in a checkpoint of an earlier version.
        false_alarms: {code: {"value", "low", "high", "n"}}, how often each warning is wrong on validation scans.

    A warning whose threshold is None is never given.
    """

    mean: np.ndarray
    scale: np.ndarray
    axes: np.ndarray
    spread: np.ndarray
    residual: float
    centers: np.ndarray
    unusual: float
    not_brain_mri: float
    low_margin: float | None = None
    evidence_against: float | None = None
    methods_disagree: float | None = None
    gate: Gate | None = None
    false_alarms: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def distance(self, features: np.ndarray) -> np.ndarray:
        """Return how far images lie from the nearest kind of training scan.

        Args:
            features: Float [n, d], see `Classifier.features`.

        Returns:
            Float [n], root mean square over the axes and the rest; about 1 for the scans that it was fitted on.
        """
        _, within, rest = self._placed(features)
        return np.sqrt((within + rest) / 2)

    def inputs(self, features: np.ndarray, measures: np.ndarray) -> np.ndarray:
        """Return what the gate judges images by, [n, k + 2 + m], from features [n, d] and measures [n, m]."""
        along, within, rest = self._placed(features)
        distances = np.log(np.stack([within, rest], axis=1) + 1e-3)
        return np.concatenate([along, distances, measures], axis=1)

    def _placed(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return where images lie along the axes, and their mean squared distance along and off them."""
        scaled = (features - self.mean) / self.scale
        along = scaled @ self.axes
        rest = np.maximum((scaled**2).sum(axis=1) - (along**2).sum(axis=1), 0) / self.residual**2
        within = (((along[:, None] - self.centers[None]) / self.spread) ** 2).mean(axis=2).min(axis=1)
        return along, within, rest

    def codes(self, seen: Seen) -> list[str]:
        """Return the codes of the warnings for one image."""
        distance = float(self.distance(seen.features[None])[0])
        foreign, unusual = distance >= self.not_brain_mri, distance >= self.unusual
        if self.gate is not None:
            scores = self.gate.scores(self.inputs(seen.features[None], seen.measures[None]))[0]
            foreign, unusual = (foreign, unusual) | (scores >= self.gate.limits)
        codes = ["not_brain_mri"] if foreign else ["unusual_scan"] if unusual else []
        highest = sorted(seen.probabilities)[-2:]
        if self.low_margin is not None and highest[-1] - highest[0] < self.low_margin:
            codes.append("low_margin")
        if self.evidence_against is not None and seen.evidence_against >= self.evidence_against:
            codes.append("evidence_against")
        return codes

    def to_json(self) -> dict:
        """Return the content ready for JSON, without thresholds that are None."""
        content: dict[str, Any] = {name: packed(getattr(self, name)) for name in ARRAYS}
        content |= {name: getattr(self, name) for name in (*NUMBERS, *OPTIONAL) if getattr(self, name) is not None}
        content |= {} if self.gate is None else {"gate": self.gate.to_json()}
        return content | {"false_alarms": {code: dict(rate) for code, rate in self.false_alarms.items()}}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Trust":
        """Read what `to_json` has written, or plain numbers; raises `ValueError` if it is anything else."""
        try:
            false_alarms = _measured(content.get("false_alarms", {}))
            gate = Gate.from_json(content["gate"]) if "gate" in content else None
            arrays = {name: unpacked(content[name]) for name in ARRAYS}
            numbers = {name: float(content[name]) for name in NUMBERS}
            numbers |= {name: float(content[name]) for name in OPTIONAL if name in content}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"trust in config.json is incomplete: {error}.") from error
        d, k = arrays["axes"].shape if arrays["axes"].ndim == 2 else (-1, -1)
        kinds = len(np.atleast_1d(arrays["centers"]))
        shapes = {"mean": (d,), "scale": (d,), "axes": (d, k), "spread": (k,), "centers": (kinds, k)}
        fits = kinds > 0 and all(arrays[name].shape == shape for name, shape in shapes.items())
        finite = all(np.isfinite(values).all() for values in (*arrays.values(), *numbers.values()))
        positive = [arrays["scale"], arrays["spread"], numbers["residual"], numbers["unusual"]]
        if not (fits and finite and all(np.all(values > 0) for values in positive)):
            raise ValueError("trust in config.json does not hold the numbers that it should.")
        return cls(**arrays, **numbers, gate=gate, false_alarms=false_alarms)


def _measured(rates: Mapping[str, Mapping]) -> dict[str, dict[str, float]]:
    """Return measured rates by code as numbers; raises `KeyError`, `TypeError` or `ValueError`."""
    return {
        str(code): {key: float(rate[key]) for key in ("value", "low", "high")} | {"n": int(rate["n"])}
        for code, rate in dict(rates).items()
    }
