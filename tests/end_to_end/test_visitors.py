"""Many visitors at once: whatever the others ask for, everyone gets the answer that they would get alone."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from brain_xai import METHODS, explain
from tests.helpers.nets import LABELS, make_timm
from tests.helpers.scans import LABELS as KINDS
from tests.helpers.scans import make_scan

SCANS = 200
THREADS = 8
# Every method sets its hooks and takes its gradients, with as few passes as it can.
QUICK = {
    "occlusion": {"window": 0.5, "stride": 0.25},
    "smooth_grad": {"samples": 2},
    "integrated_gradients": {"steps": 2},
}


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_two_hundred_scans_by_eight_visitors_at_once(name):
    classifier = make_timm(name, (64, 64))
    scans = [make_scan(KINDS[number % len(KINDS)], number) for number in range(SCANS)]
    asked = [key for key, method in METHODS.items() if method.reason_unsupported(classifier) is None]
    kinds = [*asked, "prediction"]

    def answer(number: int) -> tuple[dict, np.ndarray | None]:
        """Every scan is predicted, nearly all are also explained, by one method after the other and for all labels."""
        kind = kinds[number % len(kinds)]
        if kind == "prediction":
            return classifier.predict(scans[number]).probabilities, None
        label = LABELS[number % len(LABELS)]
        explanation = explain(classifier, scans[number], kind, label, **QUICK.get(kind, {}))
        assert (explanation.method, explanation.label) == (kind, label)
        return explanation.prediction.probabilities, explanation.attribution

    alone = [answer(number) for number in range(SCANS)]
    with ThreadPoolExecutor(THREADS) as pool:
        together = list(pool.map(answer, range(SCANS)))
    for number, (one, other) in enumerate(zip(alone, together, strict=True)):
        # To the last bit: the same sums in the same order, as every batch is one visitor's own.
        assert one[0] == other[0], (number, kinds[number % len(kinds)])
        assert np.array_equal(one[1], other[1]) or one[1] is None, (number, kinds[number % len(kinds)])
    maps = [attribution for _, attribution in alone if attribution is not None]
    assert all(attribution.any() for attribution in maps)
    assert len({attribution.tobytes() for attribution in maps}) == len(maps), "no two answers are the same by chance"
