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


def test_temperature_stays_within_bounds_when_every_answer_is_right():
    targets = torch.arange(4).repeat(5)
    logits = torch.nn.functional.one_hot(targets, 4).float()
    assert 0.05 <= fit_temperature(logits, targets) <= 20
