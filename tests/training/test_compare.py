"""Comparing checkpoints: paired by image, as hand-computed cases."""

import numpy as np
import pytest

from training.evaluation.cost import cost_in_new_process
from training.evaluation.metrics import Bootstrap, compute_metrics
from training.evaluation.paired import mcnemar, paired_differences


def probabilities(answers, classes=2):
    return np.where(np.asarray(answers)[:, None] == np.arange(classes), 0.8, 0.2 / (classes - 1))


def test_the_same_checkpoint_differs_by_nothing():
    references = np.array([0, 1] * 20)
    same = probabilities(references)
    differences = paired_differences(same, same, references, np.arange(40), 0, Bootstrap())
    assert {entry[key] for entry in differences.values() for key in ("value", "low", "high")} == {0.0}
    assert mcnemar(same, same, references, np.arange(40)) == {"only_first": 0, "only_second": 0, "p": 1.0}


def test_what_is_hard_for_both_does_not_widen_the_interval():
    """Both err on the same half of the images; the second one errs on one more."""
    references = np.zeros(40, dtype=int)
    first = probabilities([0] * 20 + [1] * 20)
    second = probabilities([1] + [0] * 19 + [1] * 20)
    accuracy = paired_differences(first, second, references, np.arange(40), None, Bootstrap())["accuracy"]
    assert accuracy["value"] == pytest.approx(-1 / 40)
    alone = compute_metrics(first, references, np.arange(40), ["a", "b"], bootstrap=Bootstrap())["accuracy"]
    assert accuracy["high"] - accuracy["low"] < 0.4 * (alone["high"] - alone["low"])
    assert accuracy["high"] <= 0


def test_mcnemar_by_hand_counts_each_duplicate_group_once():
    """Five images that only the first one answers rightly, one that only the second one does: p = 14 / 64."""
    references = np.zeros(12, dtype=int)
    first = probabilities([0] * 5 + [1] + [0] * 4 + [1] * 2)
    second = probabilities([1] * 5 + [0] + [0] * 4 + [1] * 2)
    result = mcnemar(first, second, references, np.arange(12))
    assert result == {"only_first": 5, "only_second": 1, "p": pytest.approx(14 / 64)}
    with_copies = np.concatenate([np.arange(12), np.arange(5)])
    again = mcnemar(first[with_copies], second[with_copies], references[with_copies], with_copies)
    assert again == result


def test_the_memory_of_a_checkpoint_is_its_own_however_large_this_process_is():
    ballast = np.ones(2**29, dtype=np.uint8)  # more than the other process will take with all its imports
    cost = cost_in_new_process("bundled/resnet18")
    assert ballast.all()
    assert cost["peak_megabytes"] > cost["file_megabytes"] > 0
    assert cost["parameters"] > 1e6
