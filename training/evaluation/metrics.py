"""Classification metrics with bootstrap intervals by duplicate group, as one offline `evaluate.Metric`.

Importing `evaluate` takes seconds, so import this module only where metrics are computed.
"""

import datasets
import evaluate
import numpy as np

ECE_BINS = 15
INTERVAL_LEVEL = 0.95


class ClassificationMetrics(evaluate.Metric):
    """Scores probabilities against references; equal for any order of the images and any number of processes.

    `compute(probabilities=[n][classes], references=[n], groups=[n], label_names=...)` returns a JSON-able dict.
    Its options are those of `_compute`. With several processes give each `num_process`, `process_id`, the same
    `experiment_id` and a shared `cache_dir`; process 0 gets the result, the others None.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Discrimination and calibration of a classifier, with bootstrap intervals by duplicate group.",
            citation="",
            inputs_description=(
                "probabilities: one float per class, summing to one; references: index of the true class; "
                "groups: duplicate group of the image."
            ),
            features=datasets.Features(
                {
                    "probabilities": datasets.List(datasets.Value("float64")),
                    "references": datasets.Value("int64"),
                    "groups": datasets.Value("int64"),
                }
            ),
        )

    def _compute(
        self,
        probabilities: list[list[float]],
        references: list[int],
        groups: list[int],
        *,
        label_names: list[str],
        no_tumor_label: int | None = None,
        bootstrap_samples: int = 1000,
        seed: int = 0,
    ) -> dict:
        """Return every metric as `{"value", "low", "high"}`, per class under the label's name.

        The interval is the percentile bootstrap over duplicate groups (Field and Welsh 2007, "Bootstrapping clustered
        data"): groups are drawn with replacement, each with all its images. A value that is not defined (the recall
        of a class without images) is None and left out of means and percentiles. All metrics lie in 0..1 except `nll`
        (nats, 0 and up) and `brier` (summed over classes, 0..2). `ece` is biased upwards on few images, and its
        interval more so: a perfectly calibrated model does not score 0. `tumor_miss_rate` is None without a
        `no_tumor_label`; `bootstrap_samples=0` leaves `low` and `high` None.

        Raises ValueError for rows that are not probabilities of `label_names` and for references out of range.
        """
        probabilities, references, groups = _sorted(probabilities, references, groups, len(label_names))
        weights = _bootstrap_weights(groups, bootstrap_samples, seed)
        statistics = _statistics(weights, probabilities, references, no_tumor_label)
        confusion = statistics.pop("confusion_matrix")[0]
        metrics = {
            name: _with_interval(values)
            if values.ndim == 1
            else {label: _with_interval(column) for label, column in zip(label_names, values.T, strict=True)}
            for name, values in statistics.items()
        }
        metrics.setdefault("tumor_miss_rate", None)
        return metrics | {
            "confusion_matrix": confusion.astype(int).tolist(),
            "bins": _reliability_bins(probabilities, references),
            "n": len(references),
            "groups": len(np.unique(groups)),
            "label_names": list(label_names),
            "interval": {
                "level": INTERVAL_LEVEL,
                "method": "percentile bootstrap by duplicate group",
                "samples": bootstrap_samples,
                "seed": seed,
            },
        }


def ratio_with_interval(
    numerators: np.ndarray, denominators: np.ndarray, groups: np.ndarray, samples: int = 1000, seed: int = 0
) -> dict[str, float | None]:
    """Return the sum of `numerators` over that of `denominators`, one number a picture, with its interval and n.

    With ones below it is the mean. The interval is the percentile bootstrap over duplicate groups, as above.
    """
    weights = _bootstrap_weights(groups, samples, seed)
    return _with_interval(_ratio(weights @ numerators, weights @ denominators)) | {"n": len(groups)}


def _sorted(probabilities, references, groups, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Check the inputs and bring them into one order, so that neither draws nor rounding depend on who came first."""
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


def _bootstrap_weights(groups: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """Return how often each image counts, shape [1 + samples, n]: the data as they are, then one row per draw."""
    _, members = np.unique(groups, return_inverse=True)
    count = members.max() + 1
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=samples)
    return np.concatenate([np.ones((1, len(groups))), draws[:, members]])


def _statistics(
    weights: np.ndarray, probabilities: np.ndarray, references: np.ndarray, no_tumor_label: int | None
) -> dict[str, np.ndarray]:
    """Compute all metrics under every row of weights: [rows], per class [rows, classes], NaN where not defined."""
    classes = probabilities.shape[1]
    predictions = probabilities.argmax(1)
    total = weights.sum(1)
    confusion = weights @ np.eye(classes**2)[references * classes + predictions]
    confusion = confusion.reshape(-1, classes, classes)
    hits, actual, predicted = confusion.diagonal(axis1=1, axis2=2), confusion.sum(2), confusion.sum(1)

    recall, f1 = _ratio(hits, actual), _ratio(2 * hits, actual + predicted)
    auroc = np.stack([_auroc(weights, probabilities[:, i], references == i) for i in range(classes)], axis=1)
    of_reference = probabilities[np.arange(len(references)), references]
    nll = -np.log(of_reference.clip(min=np.finfo(float).eps))
    brier = ((probabilities - np.eye(classes)[references]) ** 2).sum(1)
    top = probabilities.max(1)
    gaps = weights @ (np.eye(ECE_BINS)[_bin_of(top)] * (top - (predictions == references))[:, None])

    statistics = {
        "accuracy": hits.sum(1) / total,
        "balanced_accuracy": _mean_defined(recall),
        "macro_f1": _mean_defined(f1),
        "precision": _ratio(hits, predicted),
        "recall": recall,
        "f1": f1,
        "auroc": auroc,
        "auroc_macro": _mean_defined(auroc),
        "nll": weights @ nll / total,
        "brier": weights @ brier / total,
        "ece": np.abs(gaps).sum(1) / total,
        "confusion_matrix": confusion,
    }
    if no_tumor_label is not None:
        tumours = np.arange(classes) != no_tumor_label
        missed = confusion[:, tumours, no_tumor_label].sum(1)
        statistics["tumor_miss_rate"] = _ratio(missed, actual[:, tumours].sum(1))
    return statistics


def _auroc(weights: np.ndarray, scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Share of weighted (positive, negative) pairs in the right order, ties counting half; one value per row."""
    order = np.argsort(scores)
    tie_starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    positives, negatives = (
        np.add.reduceat(weights[:, order] * chosen[order], tie_starts, axis=1) for chosen in (positive, ~positive)
    )
    negatives_below = negatives.cumsum(1) - negatives / 2
    return _ratio((positives * negatives_below).sum(1), positives.sum(1) * negatives.sum(1))


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.full(denominator.shape, np.nan), where=denominator > 0)


def _mean_defined(values: np.ndarray) -> np.ndarray:
    return _ratio(np.nansum(values, axis=1), np.isfinite(values).sum(1))


def _with_interval(values: np.ndarray) -> dict[str, float | None]:
    """Split a column of statistics into the value on the data (first row) and the interval of the draws (the rest)."""
    draws = values[1:][np.isfinite(values[1:])]
    tail = (1 - INTERVAL_LEVEL) / 2
    low, high = np.quantile(draws, [tail, 1 - tail]).tolist() if draws.size else (None, None)
    return {"value": float(values[0]) if np.isfinite(values[0]) else None, "low": low, "high": high}


def _bin_of(top: np.ndarray) -> np.ndarray:
    """Bin m holds (m / 15, (m + 1) / 15], as in Guo et al. 2017 (arXiv 1706.04599)."""
    return np.digitize(top, np.linspace(0, 1, ECE_BINS + 1)[1:-1], right=True)


def _reliability_bins(probabilities: np.ndarray, references: np.ndarray) -> list[dict]:
    """Mean top probability and accuracy of each bin, None in an empty one: the bars of a reliability diagram."""
    top, correct = probabilities.max(1), probabilities.argmax(1) == references
    edges = np.linspace(0, 1, ECE_BINS + 1)
    bins = []
    for index, (low, high) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
        inside = _bin_of(top) == index
        bins.append(
            {
                "low": low,
                "high": high,
                "count": int(inside.sum()),
                "probability": float(top[inside].mean()) if inside.any() else None,
                "accuracy": float(correct[inside].mean()) if inside.any() else None,
            }
        )
    return bins
