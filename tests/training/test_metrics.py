"""The metrics: hand-computed cases, scikit-learn as the reference, intervals by group, one and two processes."""

import itertools
import json
import math
import multiprocessing

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics
from sklearn.calibration import calibration_curve

from tests.helpers.scans import LABELS
from training.evaluation.metrics import Bootstrap, ClassificationMetrics, compute_metrics

NO_INTERVAL = Bootstrap(samples=0)


def compute(probabilities, references, groups=None, label_names=LABELS, **options):
    groups = range(len(references)) if groups is None else groups
    return compute_metrics(probabilities, references, groups, label_names, **options)


def flat(content):
    """Every number and name of nested dicts and lists, by its path."""
    if isinstance(content, dict | list):
        items = content.items() if isinstance(content, dict) else enumerate(content)
        return {(key, *path): leaf for key, part in items for path, leaf in flat(part).items()}
    return {(): content}


def same(result):
    """As `result`; other threads may add up in another order, which changes the last digits."""
    return pytest.approx(flat(result))


def value(entry):
    """The values of an entry, of all labels where it has one per label."""
    return entry["value"] if "value" in entry else [of_label["value"] for of_label in entry.values()]


@pytest.fixture(scope="module")
def images():
    """Probabilities (in steps of 0.05, so that many tie), references and groups of 300 images."""
    rng = np.random.default_rng(7)
    references = rng.integers(4, size=300)
    twentieths = rng.multinomial(20, [0.25] * 4, size=300)
    twentieths = np.where(rng.random((300, 1)) < 0.6, 20 * np.eye(4, dtype=int)[references] // 2 + twentieths // 2, 0)
    twentieths[:, 0] += 20 - twentieths.sum(1)
    return twentieths / 20, references, rng.integers(120, size=300)


def test_a_case_computed_by_hand():
    result = compute(
        [[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8], [0.3, 0.5, 0.2]],
        [0, 1, 2, 1],
        label_names=["notumor", "glioma", "pituitary"],
        no_tumor_label=0,
    )
    assert result["confusion_matrix"] == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    assert value(result["accuracy"]) == 3 / 4
    assert value(result["precision"]) == [1 / 2, 1, 1]
    assert value(result["recall"]) == [1, 1 / 2, 1]
    assert value(result["f1"]) == [2 / 3, 2 / 3, 1]
    assert value(result["macro_f1"]) == pytest.approx(7 / 9)
    assert value(result["balanced_accuracy"]) == pytest.approx(5 / 6)
    assert value(result["tumor_miss_rate"]) == pytest.approx(1 / 3)  # three tumors, the second called notumor
    assert value(result["nll"]) == pytest.approx(-math.log(0.8 * 0.3 * 0.8 * 0.5) / 4)
    assert value(result["brier"]) == pytest.approx((0.06 + 0.86 + 0.06 + 0.38) / 4)
    # Top probability against share correct: .8 twice and right, .6 wrong, .5 right; each value in a bin of its own.
    assert value(result["ece"]) == pytest.approx((2 * 0.2 + 0.6 + 0.5) / 4)
    filled = {
        round(b["high"] * 15): (b["count"], b["probability"], b["accuracy"]) for b in result["bins"] if b["count"]
    }
    assert filled == {12: (2, 0.8, 1.0), 9: (1, 0.6, 0.0), 8: (1, 0.5, 1.0)}
    assert (result["n"], result["groups"], len(result["bins"])) == (4, 4, 15)


def test_ece_weighs_errors_of_opposite_sign_inside_a_bin_against_each_other():
    right_and_wrong = compute([[0.75, 0.25]] * 4, [0, 0, 0, 1], label_names=["a", "b"])
    assert value(right_and_wrong["ece"]) == 0
    assert value(compute([[0.75, 0.25]] * 4, [0, 0, 0, 0], label_names=["a", "b"])["ece"]) == 0.25


def test_auroc_counts_ties_half():
    result = compute([[0.5, 0.5], [0.5, 0.5], [0.2, 0.8]], [0, 1, 1], label_names=["a", "b"])
    assert value(result["auroc"]) == [0.75, 0.75]


def test_values_equal_scikit_learn(images):
    probabilities, references, groups = images
    predictions = probabilities.argmax(1)
    result = compute(probabilities, references, groups, bootstrap=NO_INTERVAL)
    per_class = sklearn_metrics.precision_recall_fscore_support(references, predictions)
    for name, expected in zip(["precision", "recall", "f1"], per_class, strict=False):
        assert value(result[name]) == pytest.approx(expected)
    expected = {
        "accuracy": sklearn_metrics.accuracy_score(references, predictions),
        "balanced_accuracy": sklearn_metrics.balanced_accuracy_score(references, predictions),
        "macro_f1": sklearn_metrics.f1_score(references, predictions, average="macro"),
        "auroc": [sklearn_metrics.roc_auc_score(references == i, probabilities[:, i]) for i in range(4)],
        "auroc_macro": sklearn_metrics.roc_auc_score(references, probabilities, multi_class="ovr"),
        "nll": sklearn_metrics.log_loss(references, probabilities),
        "brier": sklearn_metrics.brier_score_loss(references, probabilities),
    }
    assert {name: value(result[name]) for name in expected} == {k: pytest.approx(v) for k, v in expected.items()}
    assert result["confusion_matrix"] == sklearn_metrics.confusion_matrix(references, predictions).tolist()

    correct, top = predictions == references, probabilities.max(1)
    filled = [(b["accuracy"], b["probability"]) for b in result["bins"] if b["count"]]
    np.testing.assert_allclose(np.transpose(filled), calibration_curve(correct, top, n_bins=15))
    assert sum(b["count"] for b in result["bins"]) == 300


def test_intervals_are_those_of_all_possible_draws_of_groups():
    """Three groups of eight images can be drawn in 27 ways: copy the images of each and ask scikit-learn.

    The samples find the same 27 values. As the ends of the interval lie well inside the share of one of them, enough
    samples give exactly its value.
    """
    rng = np.random.default_rng(5)
    groups = np.repeat([4, 9, 11], 8)
    references = np.tile([0, 1, 2, 3], 6)
    probabilities = rng.dirichlet([1] * 4, 24) / 2 + np.eye(4)[np.where(rng.random(24) < 0.6, references, 2)] / 2
    draws = {"accuracy": [], "macro_f1": [], "auroc_macro": [], "nll": [], "brier": [], "tumor_miss_rate": []}
    for drawn_groups in itertools.product([4, 9, 11], repeat=3):
        copies = np.concatenate([np.flatnonzero(groups == group) for group in drawn_groups])
        drawn, actual = probabilities[copies], references[copies]
        predicted = drawn.argmax(1)
        draws["accuracy"].append((predicted == actual).mean())
        draws["macro_f1"].append(sklearn_metrics.f1_score(actual, predicted, average="macro"))
        draws["auroc_macro"].append(sklearn_metrics.roc_auc_score(actual, drawn, multi_class="ovr"))
        draws["nll"].append(sklearn_metrics.log_loss(actual, drawn))
        draws["brier"].append(sklearn_metrics.brier_score_loss(actual, drawn))
        draws["tumor_miss_rate"].append((predicted[actual != 2] == 2).mean())
    result = compute(probabilities, references, groups, no_tumor_label=2, bootstrap=Bootstrap(samples=3000, seed=3))
    for name, values in draws.items():
        # The lowest of 27 equally likely draws holds the 2.5th percentile (1 / 27 = 3.7 %), the highest the 97.5th.
        assert [result[name]["low"], result[name]["high"]] == pytest.approx([min(values), max(values)]), name


def test_intervals_are_drawn_by_group_not_by_image():
    probabilities, references = [[0.9, 0.1]] * 100, [0] * 50 + [1] * 50  # half right, half wrong
    two_groups = compute(probabilities, references, references, label_names=["a", "b"])["accuracy"]
    # Both draws hit the right group, or both the wrong one, in a quarter of the samples each.
    assert two_groups == {"value": 0.5, "low": 0.0, "high": 1.0}
    by_image = compute(probabilities, references, label_names=["a", "b"])["accuracy"]
    assert 0.35 < by_image["low"] < 0.45 < 0.55 < by_image["high"] < 0.65  # 0.5 +- 1.96 * 0.05
    one_group = compute(probabilities, references, [8] * 100, label_names=["a", "b"])
    assert one_group["accuracy"] == {"value": 0.5, "low": 0.5, "high": 0.5}
    assert one_group["groups"] == 1


def test_order_of_the_images_changes_nothing_and_the_seed_only_the_intervals(images):
    result = compute(*images, no_tumor_label=2)
    shuffled = np.random.default_rng(0).permutation(300)
    assert flat(compute(*(column[shuffled] for column in images), no_tumor_label=2)) == same(result)
    other_seed = compute(*images, no_tumor_label=2, bootstrap=Bootstrap(seed=1))
    assert other_seed["accuracy"]["value"] == pytest.approx(result["accuracy"]["value"])
    assert other_seed["nll"]["low"] != pytest.approx(result["nll"]["low"])


def compute_part(process_id: int, cache_dir: str, images: tuple) -> dict | None:
    """What one of two processes does: add its images in two batches, then compute."""
    metric = ClassificationMetrics(
        num_process=2, process_id=process_id, cache_dir=cache_dir, experiment_id="two", timeout=120
    )
    part = [column[process_id::2] for column in images]
    for batch in (slice(0, 90), slice(90, None)):
        metric.add_batch(**dict(zip(["probabilities", "references", "groups"], (c[batch] for c in part), strict=True)))
    return metric.compute(label_names=LABELS, no_tumor_label=2)


# Forking spares the second process the seconds of importing evaluate; it only writes a file and leaves.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_two_processes_give_what_one_gives(images, tmp_path):
    second = multiprocessing.get_context("fork").Process(target=compute_part, args=(1, str(tmp_path), images))
    second.start()
    result = compute_part(0, str(tmp_path), images)
    second.join(120)
    assert second.exitcode == 0
    assert result["n"] == 300
    assert flat(result) == same(compute(*images, no_tumor_label=2))


def test_a_class_without_images_is_undefined_not_zero(images):
    probabilities, references, _ = images
    kept = references != 3
    result = compute(probabilities[kept], references[kept], no_tumor_label=2)
    undefined = {"value": None, "low": None, "high": None}
    assert result["recall"]["pituitary"] == result["auroc"]["pituitary"] == undefined
    predictions = probabilities[kept].argmax(1)
    recalls = sklearn_metrics.recall_score(references[kept], predictions, labels=[0, 1, 2], average="macro")
    assert value(result["balanced_accuracy"]) == pytest.approx(recalls)
    assert value(result["macro_f1"]) == pytest.approx(
        sklearn_metrics.f1_score(references[kept], predictions, average="macro")
    )
    json.dumps(result, allow_nan=False)


def test_a_single_image():
    result = compute([[0.7, 0.1, 0.1, 0.1]], [0], no_tumor_label=2)
    assert result["accuracy"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert result["ece"]["value"] == pytest.approx(0.3)
    assert result["auroc_macro"] == {"value": None, "low": None, "high": None}
    assert result["precision"]["glioma"]["value"] == 1
    assert result["precision"]["notumor"]["value"] is None
    json.dumps(result, allow_nan=False)


def test_perfect_predictions():
    references = [0, 1, 2, 3] * 10
    result = compute(np.eye(4)[references], references, no_tumor_label=2)
    perfect = {"value": 1.0, "low": 1.0, "high": 1.0}
    assert result["accuracy"] == result["macro_f1"] == result["auroc_macro"] == result["recall"]["glioma"] == perfect
    none_wrong = {"value": 0.0, "low": 0.0, "high": 0.0}
    assert result["nll"] == result["brier"] == result["ece"] == result["tumor_miss_rate"] == none_wrong


def test_a_certain_but_wrong_answer_costs_a_finite_nll():
    assert value(compute([[1.0, 0.0]], [1], label_names=["a", "b"])["nll"]) == pytest.approx(36.04, abs=0.01)


def test_without_a_class_for_no_tumor_there_is_no_miss_rate(images):
    assert compute(*images, bootstrap=NO_INTERVAL)["tumor_miss_rate"] is None


def test_without_draws_there_is_no_interval(images):
    result = compute(*images, bootstrap=NO_INTERVAL)
    assert result["accuracy"]["low"] is result["accuracy"]["high"] is None
    assert result["accuracy"]["value"] == pytest.approx(compute(*images)["accuracy"]["value"])


@pytest.mark.parametrize(
    ("probabilities", "references", "message"),
    [
        ([[2.0, -1.0, 0.0, 0.0]], [0], "logits"),
        ([[0.5, 0.2, 0.2, 0.2]], [0], "sum to one"),
        ([[math.nan, 0.5, 0.5, 0.0]], [0], "finite"),
        ([[0.5, 0.5]], [0], "4 columns"),
        ([[0.25] * 4], [4], r"0\.\.3"),
    ],
)
def test_what_cannot_be_scored_is_refused(probabilities, references, message):
    with pytest.raises(ValueError, match=message):
        compute(probabilities, references)


def test_the_interval_of_a_full_test_set_is_that_of_the_normal_approximation():
    rng = np.random.default_rng(0)
    accuracy = compute(rng.dirichlet([1] * 4, 1311), rng.integers(4, size=1311))["accuracy"]
    half = 1.96 * math.sqrt(accuracy["value"] * (1 - accuracy["value"]) / 1311)
    # The quantiles of 1,000 samples scatter by about 4 % of their distance.
    assert accuracy["value"] - accuracy["low"] == pytest.approx(half, rel=0.15)
    assert accuracy["high"] - accuracy["value"] == pytest.approx(half, rel=0.15)
