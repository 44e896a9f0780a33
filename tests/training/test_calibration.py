"""Calibration: the temperature is the one that undoes what was done to the logits."""

import pytest
import torch

from training.evaluation.calibration import fit_temperature


def test_temperature_of_logits_that_are_too_sure():
    """Labels drawn from softmax(logits) and logits tripled: the temperature that undoes it is 3."""
    torch.manual_seed(0)
    logits = torch.randn(20_000, 4) * 2
    targets = torch.multinomial(torch.softmax(logits, 1), 1)[:, 0]
    assert fit_temperature(logits * 3, targets) == pytest.approx(3, rel=0.05)
    assert fit_temperature(logits, targets) == pytest.approx(1, rel=0.05)


def test_temperature_stops_at_its_bounds_if_every_answer_is_right_or_wrong():
    targets = torch.arange(4).repeat(5)
    logits = torch.nn.functional.one_hot(targets, 4).float()
    assert fit_temperature(logits, targets) == pytest.approx(0.05)
    assert fit_temperature(-logits, targets) == pytest.approx(20)


def test_temperature_is_one_if_the_logits_are_no_numbers():
    assert fit_temperature(torch.full((4, 2), torch.nan), torch.tensor([0, 1, 0, 1])) == 1
