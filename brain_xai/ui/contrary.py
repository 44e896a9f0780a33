"""The spot of a map that speaks most strongly against "no tumor", where a warning says that there is one."""

from brain_xai.areas import Areas, strongest_areas
from brain_xai.explanation import Explanation
from brain_xai.framing import head_mask
from brain_xai.summary import place_of

WARNING = "evidence_against"


def spot(explanation: Explanation) -> Areas | None:
    """Return the area that speaks most strongly against the answer; None unless a warning speaks of it."""
    prediction = explanation.prediction
    warned = any(warning.code == WARNING for warning in prediction.warnings)
    if not (warned and explanation.signed and explanation.label == prediction.label):
        return None
    areas = strongest_areas(-explanation.attribution)
    return Areas(areas.strength, areas.masks[:1]) if areas.masks else None


def where(explanation: Explanation) -> str | None:
    """Return in words where that spot lies, None if there is none."""
    area = spot(explanation)
    if area is None:
        return None
    return place_of(area.masks[0], area, head_mask(explanation.view.convert("L"))).where
