"""Judging answers: by hand, with ties, partly known labels and units that are drawn together."""

from pathlib import Path

import numpy as np
import pytest

from training.evaluation.groups import gained, groups_of, worst_and_mean
from training.evaluation.judged import Judged, accuracy_at, judge, share, trust_in
from training.evaluation.unseen import TEST, Part, Unseen

HEALTHY = 2


def part_of(allowed):
    allowed = np.array(allowed, dtype=bool)
    files = [Path(f"{i}.png") for i in range(len(allowed))]
    return Part(np.zeros((len(allowed), 4, 4), np.uint8), allowed, np.arange(len(allowed)), files)


def test_another_tumor_is_right_for_tumor_or_not_but_not_for_the_class():
    probabilities = np.array([[0.5, 0.3, 0.2], [0.1, 0.3, 0.6], [0.1, 0.5, 0.4], [0.1, 0.1, 0.8]])
    part = part_of([[0, 1, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1]])
    judged = judge(probabilities, part, HEALTHY)
    assert judged["tumor_or_not"].right.tolist() == [True, False, True, True]
    assert judged["tumor_or_not"].confidence == pytest.approx([0.8, 0.6, 0.6, 0.8])
    assert judged["class"].right.tolist() == [False, False, True, True]
    assert judged["class"].confidence == pytest.approx([0.5, 0.6, 0.5, 0.8])


def test_an_unknown_kind_of_tumor_has_no_class_to_be_right_about():
    judged = judge(np.array([[0.5, 0.3, 0.2]]), part_of([[1, 1, 0]]), HEALTHY)
    assert set(judged) == {"tumor_or_not"}
    assert judged["tumor_or_not"].right.all()


def test_accuracy_of_the_surest_answers_by_hand():
    judged = Judged(np.array([0.5, 0.8, 0.9, 0.8]), np.array([False, True, True, False]), np.arange(4))
    once, twice = np.ones((1, 4)), np.array([[1.0, 1.0, 2.0, 0.0]])
    assert accuracy_at(once, judged, 0.25) == pytest.approx([1])
    # Of the two equally sure ones, of which one is right, each is kept by half.
    assert accuracy_at(once, judged, 0.5) == pytest.approx([0.75])
    assert accuracy_at(once, judged, 0.75) == pytest.approx([2 / 3])
    assert accuracy_at(once, judged, 1) == pytest.approx([0.5])
    assert accuracy_at(twice, judged, 0.75) == pytest.approx([1])


def test_what_is_said_about_trust_fits_the_answers():
    random = np.random.default_rng(0)
    confidence = random.uniform(0.5, 1, 4000)
    units = np.repeat(np.arange(2000), 2)
    honest = trust_in(Judged(confidence, random.random(4000) < confidence, units), seed=0)
    blind = trust_in(Judged(confidence, random.random(4000) < 0.75, units), seed=0)
    assert honest["ece"]["value"] < 0.03 < 0.1 < blind["ece"]["value"]
    assert honest["auroc"]["value"] > 0.65
    assert blind["auroc"]["value"] == pytest.approx(0.5, abs=0.03)
    assert honest["accuracy_at_coverage"]["value"] > honest["accuracy"]["value"] + 0.01
    assert (honest["n"], honest["units"]) == (4000, 2000)
    coverage, accuracy = zip(*honest["curve"], strict=True)
    assert coverage[-1] == 1
    assert accuracy[-1] == pytest.approx(honest["accuracy"]["value"])
    assert dict(honest["curve"])[0.9] == pytest.approx(honest["accuracy_at_coverage"]["value"])
    assert sum(row["count"] for row in honest["bins"]) == 4000


def test_without_an_error_nothing_tells_errors_apart():
    measured = trust_in(Judged(np.array([0.9, 0.8]), np.array([True, True]), np.arange(2)), seed=0)
    assert measured["auroc"]["value"] is None
    assert measured["accuracy_at_coverage"]["value"] == 1


def test_scans_of_one_patient_are_drawn_together():
    values = np.repeat([1.0, 0.0], 20)
    together, apart = share(values, np.arange(40) // 5, 0), share(values, np.arange(40), 0)
    assert (together["value"], together["n"], together["units"]) == (0.5, 40, 8)
    assert together["high"] - together["low"] > apart["high"] - apart["low"]


def test_the_worst_group_and_the_mean_of_groups_of_any_size():
    def group(right):
        return Judged(np.ones(len(right)), np.array(right, dtype=bool), np.arange(len(right)))

    found = worst_and_mean({"large": group([1] * 90 + [0] * 10), "small": group([1, 0, 1, 0])}, seed=0)
    assert (found["worst"]["name"], found["worst"]["value"], found["worst"]["n"]) == ("small", 0.5, 4)
    assert found["mean"]["value"] == pytest.approx(0.7)  # not .88, the mean of all scans
    assert found["mean"]["low"] < 0.7 < found["mean"]["high"]
    assert found["mean"]["groups"] == 2
    assert worst_and_mean({}, seed=0) == {}


def test_what_a_second_answer_gains_is_counted_in_pairs():
    before, after = (
        {"class": Judged(np.ones(4), np.array(right), np.arange(4))}
        for right in ([True, False, False, True], [True, True, True, False])
    )
    assert gained(before, after, seed=0)["class"]["value"] == 0.25
    assert gained(before, before, seed=0)["class"]["high"] == 0


def test_tumors_in_a_look_of_healthy_scans_are_a_group_of_their_own():
    allowed = [[0, 0, 1]] * 60 + [[1, 0, 0]] * 25 + [[0, 1, 0]] * 10
    part, healthy = part_of(allowed), np.tile([0.1, 0.1, 0.8], (95, 1))
    unseen = Unseen(None, None, None, {TEST: part, "web T1 glioma": part.take(np.arange(60, 79))}, {}, HEALTHY)
    looks = {"look 1": np.arange(85), "look 2": np.arange(85, 95)}
    groups = groups_of(unseen, {TEST: healthy, "web T1 glioma": healthy[:19]}, looks)
    assert {name: (len(group.right), group.right.mean()) for name, group in groups.items()} == {
        "look 1, tumor": (25, 0),
        "look 1, no tumor": (60, 1),
    }, "10 and 19 scans are too few"
