"""One sentence about a map that everybody can check: how many areas, where, how large, who agrees, what it changes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from brain_xai.areas import LEVEL, Areas, blurred, find_areas
from brain_xai.classifier import Classifier
from brain_xai.cover import cover_view
from brain_xai.doubts import BLUR, NO_VOTE
from brain_xai.explanation import Explanation
from brain_xai.framing import head_mask

# Left and right as displayed: where the patient's left is, an image does not tell.
PLACES = (
    ("upper left in the image", "upper middle in the image", "upper right in the image"),
    ("middle left in the image", "center of the image", "middle right in the image"),
    ("lower left in the image", "lower middle in the image", "lower right in the image"),
)
OUTSIDE = "outside the head"
# How far from an area another method's strongest place still counts as the same, as a fraction of the map's side.
NEAR = 0.05

Translate = Callable[[str], str]


@dataclass(frozen=True, eq=False)
class Place:
    """An area of a map: `where` it lies in the image, in words, and which share of the head it covers, 0 to 1."""

    where: str
    share_of_head: float


@dataclass(frozen=True, eq=False)
class Summary:
    """What a map shows, in numbers and in a sentence.

    Attributes:
        areas: The areas in which the evidence reaches half of full color, the one with most evidence first.
        against: The areas of evidence against the class, likewise; none for a method without sign.
        share_of_head: Which share of the head `areas` cover, 0 to 1.
        agreeing: How many of the other methods have their strongest place inside or near the first area.
        others: How many other methods were asked.
        before: The probability of the class.
        after: The same with the first area covered, None if that was not asked for or there is no area.
        signed: Whether the method tells for from against.
        scattered: Whether single points reach half of full color, in an area or not.
    """

    areas: tuple[Place, ...]
    against: tuple[Place, ...]
    share_of_head: float
    agreeing: int
    others: int
    before: float
    after: float | None
    signed: bool
    scattered: bool

    @property
    def sentence(self) -> str:
        """The summary in English."""
        return self.text(str)

    def text(self, translate: Translate) -> str:
        """Return the summary in another language.

        Args:
            translate: Returns the translation of an English sentence or place; {names} in it stay as they are.

        Returns:
            One to four short sentences.
        """
        return " ".join(translate(sentence).format(**values) for sentence, values in self._sentences(translate))

    def _sentences(self, translate: Translate) -> list[tuple[str, dict]]:
        """Return English sentences with {names}, and what to put in their place."""
        sentences = [self._about(self.areas, "for", translate)]
        if self.areas and self.others:
            sentences.append((AGREEMENT, {"agreeing": self.agreeing, "others": self.others}))
        if self.after is not None:
            change = {"before": translate(percent(self.before)), "after": translate(percent(self.after))}
            wordings = LOWERED if self.after < self.before else RAISED
            if change["before"] == change["after"]:
                wordings = UNCHANGED
            sentences.append((wordings[len(self.areas) > 1], change))
        if self.against:
            sentences.append(self._about(self.against, "against", translate))
        return sentences

    def _about(self, places: tuple[Place, ...], side: str, translate: Translate) -> tuple[str, dict]:
        """Return the sentence about the areas for or against."""
        if not places:
            return ONLY_AGAINST if self.against else SCATTERED if self.scattered else NOTHING, {}
        wordings = AGAINST if side == "against" else RESTS_ON if self.signed else HIGHLIGHTS
        share = sum(place.share_of_head for place in places)
        values = {"count": len(places), "where": translate(places[0].where), "share": translate(percent(share))}
        return wordings[2 if places[0].where == OUTSIDE else len(places) > 1], values


NOTHING = "Nothing stands out: no area reaches half of full color."
SCATTERED = "No area stands out: only scattered points reach half of full color."
ONLY_AGAINST = "Nothing speaks clearly for this class."
# For one area, for several, and where the first one lies outside the head.
RESTS_ON = (
    "Rests on one area: {where}, {share} of the head.",
    "Rests on {count} areas, mostly {where}; together they are {share} of the head.",
    "Rests mostly on what lies outside the head.",
)
HIGHLIGHTS = (
    "Highlights one area: {where}, {share} of the head.",
    "Highlights {count} areas, mostly {where}; together they are {share} of the head.",
    "Highlights mostly what lies outside the head.",
)
AGAINST = (
    "One area speaks against this class: {where}, {share} of the head.",
    "{count} areas speak against this class, mostly {where}; together they are {share} of the head.",
    "What speaks against this class lies mostly outside the head.",
)
AGREEMENT = "{agreeing} of {others} other methods agree."
LOWERED = (
    "Covering it lowers the probability from {before} to {after}.",
    "Covering the strongest of them lowers the probability from {before} to {after}.",
)
RAISED = (
    "Covering it raises the probability from {before} to {after}.",
    "Covering the strongest of them raises the probability from {before} to {after}.",
)
UNCHANGED = (
    "Covering it leaves the probability at {before}.",
    "Covering the strongest of them leaves the probability at {before}.",
)


def summarize(
    explanation: Explanation, others: Sequence[Explanation] = (), classifier: Classifier | None = None
) -> Summary:
    """Say in one checkable sentence what a map shows.

    Args:
        explanation: The map.
        others: Maps of the same class by other methods, to count which ones agree. Methods whose maps do not depend on
            the class or are made of others do not count.
        classifier: The model that was explained, to ask once more with the first area covered: one forward pass.

    Returns:
        The summary; `sentence` has it in words.

    Raises:
        ValueError: One of the others explains another class.
    """
    for other in others:
        if other.target != explanation.target:
            raise ValueError(f"Maps of {explanation.label!r} and of {other.label!r} cannot agree.")
    areas = find_areas(explanation.attribution, explanation.scale)
    against = find_areas(-explanation.attribution, explanation.scale)
    head = head_mask(explanation.view.convert("L"))
    places = tuple(place_of(mask, areas, head) for mask in areas.masks)
    others = [other for other in others if other.method not in (explanation.method, *NO_VOTE)]
    after = None
    if classifier is not None and areas.masks:
        after = cover_view(classifier, explanation.view, areas.masks[0]).probabilities[explanation.label]
    return Summary(
        areas=places,
        against=tuple(place_of(mask, against, head) for mask in against.masks),
        share_of_head=sum(place.share_of_head for place in places),
        agreeing=sum(_agrees(other, areas) for other in others),
        others=len(others),
        before=explanation.prediction.probabilities[explanation.label],
        after=after,
        signed=explanation.signed,
        scattered=bool((explanation.attribution >= LEVEL * explanation.scale).any()),
    )


def percent(fraction: float) -> str:
    """Return a fraction as whole percent, never none or all: what a model says is never certain."""
    if fraction < 0.01:
        return "less than 1\N{NO-BREAK SPACE}%"
    if fraction > 0.99:
        return "more than 99\N{NO-BREAK SPACE}%"
    return f"{round(100 * fraction)}\N{NO-BREAK SPACE}%"


def place_of(mask: np.ndarray, areas: Areas, head: np.ndarray) -> Place:
    """Return where an area lies.

    Args:
        mask: The area, bool [H, W], one of `areas`.
        areas: The areas of a map.
        head: What of the view is head, bool [H, W].

    Returns:
        Where the middle of its evidence lies in the head, and how much of the head it covers.
    """
    weights = np.where(mask, areas.strength, 0).astype(np.float64)
    row = float(weights.sum(axis=1) @ np.arange(mask.shape[0]) / weights.sum())
    column = float(weights.sum(axis=0) @ np.arange(mask.shape[1]) / weights.sum())
    share = float((mask & head).sum() / head.sum())
    if 2 * (mask & head).sum() < mask.sum():
        return Place(OUTSIDE, share)
    rows, columns = np.flatnonzero(head.any(axis=1)), np.flatnonzero(head.any(axis=0))
    return Place(PLACES[_third(row, rows)][_third(column, columns)], share)


def _third(position: float, inside: np.ndarray) -> int:
    """Return 0, 1 or 2: in which third of the head's extent a position lies."""
    first, last = int(inside[0]), int(inside[-1])
    return min(max(int(3 * (position - first + 0.5) / (last - first + 1)), 0), 2)


def _agrees(other: Explanation, areas: Areas) -> bool:
    """Return whether another map's strongest place, after a slight blur, lies inside or near the first area."""
    evidence = blurred(other.attribution.clip(min=0), BLUR)
    if not areas.masks or not evidence.any():
        return False
    row, column = np.unravel_index(evidence.argmax(), evidence.shape)
    rows, columns = np.nonzero(areas.masks[0])
    return bool(np.hypot(rows - row, columns - column).min() <= NEAR * max(evidence.shape))
