"""Classification metrics with bootstrap intervals by duplicate group, computed offline.

Importing `evaluate` takes seconds, so import this module only where metrics are computed.
"""

from dataclasses import dataclass

import datasets
import evaluate
import numpy as np

ECE_BINS = 15
INTERVAL_LEVEL = 0.95


@dataclass(frozen=True)
class Bootstrap:
    """The percentile bootstrap over duplicate groups: groups are drawn with replacement, each with all its images.

    `samples=0` gives no interval. Reference: Field and Welsh 2007, "Bootstrapping clustered data".
    """

    samples: int = 1000
    seed: int = 0

    def weights(self, groups: np.ndarray) -> np.ndarray:
        """Return how often each image counts, [1 + samples, n]: once in the first row, then one row per sample."""
        _, members = np.unique(groups, return_inverse=True)
        count = members.max() + 1
        draws = np.random.default_rng(self.seed).multinomial(count, np.full(count, 1 / count), size=self.samples)
        return np.concatenate([np.ones((1, len(groups))), draws[:, members]])

    def describe(self) -> dict:
        """Return what the reader of an interval must know, ready for JSON."""
        return {
            "level": INTERVAL_LEVEL,
            "method": "percentile bootstrap by duplicate group",
            "samples": self.samples,
            "seed": self.seed,
        }


def compute_metrics(
    probabilities: np.ndarray,
    references: np.ndarray,
    groups: np.ndarray,
    label_names: list[str],
    no_tumor_label: int | None = None,
    bootstrap: Bootstrap = Bootstrap(),
) -> dict:
    """Score probabilities against references; the result does not depend on the order of the images.

    All lie in 0..1 except `nll` (nats, 0 and up) and `brier` (summed over classes, 0..2). `ece` is biased upwards on
    few images, and its interval more so: a perfectly calibrated model does not score 0.

    Args:
        probabilities: One probability per class, [n, classes]; every row sums to one.
        references: Index of the true class, int [n].
        groups: Duplicate group of each image, int [n].
        label_names: One name per class.
        no_tumor_label: Index of the class without a tumor, for `tumor_miss_rate`.
        bootstrap: How the intervals are drawn.

    Returns:
        Every metric as `{"value", "low", "high"}`, per class by label name. A value that is not defined (the recall of
        a class without images) is None and left out of means and percentiles.

    Raises:
        ValueError: A row is no probability distribution over `label_names`, or a reference is out of range.
    """
    probabilities, references, groups = _sorted(probabilities, references, groups, len(label_names))
    statistics = _statistics(bootstrap.weights(groups), probabilities, references, no_tumor_label)
    confusion = statistics.pop("confusion_matrix")[0]
    return {
        "tumor_miss_rate": None,
        **{name: _entries(values, label_names) for name, values in statistics.items()},
        "confusion_matrix": confusion.astype(int).tolist(),
        "bins": reliability_bins(probabilities.max(1), probabilities.argmax(1) == references),
        "n": len(references),
        "groups": len(np.unique(groups)),
        "label_names": list(label_names),
        "interval": bootstrap.describe(),
    }


def sample_metrics(
    probabilities: np.ndarray,
    references: np.ndarray,
    groups: np.ndarray,
    no_tumor_label: int | None = None,
    bootstrap: Bootstrap = Bootstrap(),
) -> dict[str, np.ndarray]:
    """Return every metric of `compute_metrics` as float [1 + samples, …]: its value, then one for each sample.

    The samples depend on `groups` and the seed alone: those of two models on the same images belong together.
    """
    classes = np.shape(probabilities)[1]
    probabilities, references, groups = _sorted(probabilities, references, groups, classes)
    return _statistics(bootstrap.weights(groups), probabilities, references, no_tumor_label)


class ClassificationMetrics(evaluate.Metric):
    """`compute_metrics` as an offline `evaluate.Metric`, for one process or several.

    `compute(probabilities=…, references=…, groups=…, label_names=…)` takes the other arguments of `compute_metrics`,
    too. With several processes give each `num_process`, `process_id`, the same `experiment_id` and a shared
    `cache_dir`; process 0 gets the result, the others None.
    """

    def _info(self) -> evaluate.MetricInfo:
        features = {
            "probabilities": datasets.List(datasets.Value("float64")),
            "references": datasets.Value("int64"),
            "groups": datasets.Value("int64"),
        }
        return evaluate.MetricInfo(
            description=compute_metrics.__doc__,
            citation="",
            inputs_description="See the arguments of `compute_metrics`.",
            features=datasets.Features(features),
        )

    def _compute(self, **inputs) -> dict:
        return compute_metrics(**inputs)


def ratio_with_interval(
    numerators: np.ndarray, denominators: np.ndarray, groups: np.ndarray, bootstrap: Bootstrap
) -> dict[str, float | None]:
    """Return sum(numerators) / sum(denominators), given one of each per image, with its interval and n.

    With denominators of one it is the mean.
    """
    weights = bootstrap.weights(groups)
    return entry_of(_ratio(weights @ numerators, weights @ denominators)) | {"n": len(groups)}


def _sorted(probabilities, references, groups, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Check the inputs and sort the images, so that neither samples nor rounding depend on their order."""
    probabilities, references, groups = np.asarray(probabilities, float), np.asarray(references), np.asarray(groups)
    if probabilities.ndim != 2 or probabilities.shape[1] != classes:
        raise ValueError(f"probabilities must have {classes} columns, one per label, got shape {probabilities.shape}")
    # The tolerance admits a softmax computed in half precision, but no logits.
    if not (probabilities.min() >= 0 and np.allclose(probabilities.sum(1), 1, rtol=0, atol=5e-3)):
        raise ValueError("probabilities must be finite, not negative, and sum to one in every row (were logits given?)")
    if references.min() < 0 or references.max() >= classes:
        raise ValueError(f"references must lie in 0..{classes - 1}, got {references.min()}..{references.max()}")
    order = np.lexsort((*probabilities.T, references, groups))
    return probabilities[order], references[order], groups[order]


def _statistics(
    weights: np.ndarray, probabilities: np.ndarray, references: np.ndarray, no_tumor_label: int | None
) -> dict[str, np.ndarray]:
    """Compute all metrics for every row of weights: [rows], per class [rows, classes], NaN where not defined."""
    classes = probabilities.shape[1]
    predictions = probabilities.argmax(1)
    total = weights.sum(1)
    confusion = weights @ np.eye(classes**2)[references * classes + predictions]
    confusion = confusion.reshape(-1, classes, classes)
    hits, actual, predicted = confusion.diagonal(axis1=1, axis2=2), confusion.sum(2), confusion.sum(1)

    recall, f1 = _ratio(hits, actual), _ratio(2 * hits, actual + predicted)
    auroc_of_class = np.stack([auroc(weights, probabilities[:, i], references == i) for i in range(classes)], axis=1)
    of_reference = probabilities[np.arange(len(references)), references]
    nll = -np.log(of_reference.clip(min=np.finfo(float).eps))
    brier = ((probabilities - np.eye(classes)[references]) ** 2).sum(1)
    top = probabilities.max(1)

    statistics = {
        "accuracy": hits.sum(1) / total,
        "balanced_accuracy": _mean_defined(recall),
        "macro_f1": _mean_defined(f1),
        "precision": _ratio(hits, predicted),
        "recall": recall,
        "f1": f1,
        "auroc": auroc_of_class,
        "auroc_macro": _mean_defined(auroc_of_class),
        "nll": weights @ nll / total,
        "brier": weights @ brier / total,
        "ece": calibration_error(weights, top, predictions == references),
        "confusion_matrix": confusion,
    }
    if no_tumor_label is not None:
        tumors = np.arange(classes) != no_tumor_label
        missed = confusion[:, tumors, no_tumor_label].sum(1)
        statistics["tumor_miss_rate"] = _ratio(missed, actual[:, tumors].sum(1))
    return statistics


def calibration_error(weights: np.ndarray, confidence: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the expected calibration error of answers with these probabilities for every row of weights, [rows]."""
    gaps = weights @ (np.eye(ECE_BINS)[_bin_of(confidence)] * (confidence - right)[:, None])
    return np.abs(gaps).sum(1) / weights.sum(1)


def auroc(weights: np.ndarray, scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Return the fraction of weighted (positive, negative) pairs in the right order, ties counting half, [rows]."""
    order = np.argsort(scores)
    tie_starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    positives, negatives = (
        np.add.reduceat(weights[:, order] * chosen[order], tie_starts, axis=1) for chosen in (positive, ~positive)
    )
    negatives_below = negatives.cumsum(1) - negatives / 2
    return _ratio((positives * negatives_below).sum(1), positives.sum(1) * negatives.sum(1))


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divide where the denominator is positive; NaN elsewhere."""
    return np.divide(numerator, denominator, out=np.full(denominator.shape, np.nan), where=denominator > 0)


def _mean_defined(values: np.ndarray) -> np.ndarray:
    """Return the mean over the classes whose value is defined, [rows]."""
    return _ratio(np.nansum(values, axis=1), np.isfinite(values).sum(1))


def _entries(values: np.ndarray, label_names: list[str]) -> dict:
    """Return a metric [1 + samples] with its interval, or one of each class [1 + samples, classes] by label name."""
    if values.ndim == 1:
        return entry_of(values)
    return {label: entry_of(column) for label, column in zip(label_names, values.T, strict=True)}


def entry_of(values: np.ndarray) -> dict[str, float | None]:
    """Return the first number as the value, and the interval of the others, its bootstrap samples."""
    samples = values[1:][np.isfinite(values[1:])]
    tail = (1 - INTERVAL_LEVEL) / 2
    low, high = np.quantile(samples, [tail, 1 - tail]).tolist() if samples.size else (None, None)
    return {"value": float(values[0]) if np.isfinite(values[0]) else None, "low": low, "high": high}


def _bin_of(top: np.ndarray) -> np.ndarray:
    """Return the bin of each top probability: bin m holds (m / 15, (m + 1) / 15], as in arXiv 1706.04599."""
    return np.digitize(top, np.linspace(0, 1, ECE_BINS + 1)[1:-1], right=True)


def reliability_bins(confidence: np.ndarray, right: np.ndarray) -> list[dict]:
    """Return mean probability and accuracy of each bin, None in an empty one: the bars of a reliability diagram.

    Args:
        confidence: The probability of each answer, [n].
        right: Whether each answer is right, bool [n].
    """
    edges = np.linspace(0, 1, ECE_BINS + 1)
    bins = []
    for index, (low, high) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
        inside = _bin_of(confidence) == index
        bins.append(
            {
                "low": low,
                "high": high,
                "count": int(inside.sum()),
                "probability": float(confidence[inside].mean()) if inside.any() else None,
                "accuracy": float(right[inside].mean()) if inside.any() else None,
            }
        )
    return bins
