"""Two checkpoints on the same images: which one is better, and how sure that is."""

import numpy as np
from scipy.stats import binomtest

from training.evaluation.metrics import Bootstrap, entry_of, sample_metrics

# Metrics of one number each, and whether more is better.
COMPARED = {
    "accuracy": True,
    "balanced_accuracy": True,
    "macro_f1": True,
    "auroc_macro": True,
    "tumor_miss_rate": False,
    "ece": False,
    "nll": False,
}


def paired_differences(
    first: np.ndarray,
    second: np.ndarray,
    references: np.ndarray,
    groups: np.ndarray,
    no_tumor_label: int | None,
    bootstrap: Bootstrap,
) -> dict[str, dict]:
    """Return how much the metrics of the second checkpoint exceed those of the first.

    Both are scored on the same samples of duplicate groups, so what makes images hard for both does not widen the
    interval.

    Args:
        first: Probabilities of the first checkpoint, [n, classes].
        second: Probabilities of the second one for the same images.
        references: True classes, int [n].
        groups: Duplicate groups, int [n].
        no_tumor_label: Index of the class without a tumor.
        bootstrap: How the intervals are drawn.

    Returns:
        `{metric: {"value", "low", "high"}}` of `COMPARED`.
    """
    samples = [sample_metrics(each, references, groups, no_tumor_label, bootstrap) for each in (first, second)]
    return {name: entry_of(samples[1][name] - samples[0][name]) for name in COMPARED if name in samples[0]}


def mcnemar(first: np.ndarray, second: np.ndarray, references: np.ndarray, groups: np.ndarray) -> dict:
    """Test whether two checkpoints err equally often, by one image of each duplicate group.

    The test needs independent images; copies are not, so only the first image of each group counts.

    Returns:
        "only_first" and "only_second", the numbers of images that only one answers rightly, and the two-sided exact
        "p" for the two numbers to differ as much by chance.

    Reference: McNemar 1947, "Note on the sampling error of the difference between correlated proportions".
    """
    single = np.unique(groups, return_index=True)[1]
    right = [each[single].argmax(axis=1) == references[single] for each in (first, second)]
    only_first, only_second = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    discordant = only_first + only_second
    p = float(binomtest(only_first, discordant).pvalue) if discordant else 1.0
    return {"only_first": only_first, "only_second": only_second, "p": p}
