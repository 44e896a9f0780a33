"""What there is to measure of each method: is the map in its place, is it faithful, is it stable, is it learnt?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from brain_xai import quality
from brain_xai.classifier import Classifier
from brain_xai.explanation import explain
from brain_xai.methods import METHODS
from brain_xai.methods.cam import resample_to_image
from brain_xai.methods.target_layer import TargetLayer
from training.evaluation.held_out import BoxedScans
from training.evaluation.metrics import ratio_with_interval

CONSENSUS = "consensus"  # it is weighted by what was measured of the others
TOLERANCE = 15  # pixels of the view
THRESHOLDS = np.arange(5, 100, 5) / 100
BOOTSTRAP_SAMPLES = 1000
# Methods that cost at most this many forward passes are measured on every image, the others on EXPENSIVE_IMAGES.
CHEAP_PASSES = 12
EXPENSIVE_IMAGES = 100
# Every image takes 20 forward passes for the faithfulness curves, and six maps for stability and sanity.
FAITHFULNESS_IMAGES = 100
STABILITY_IMAGES = 30
NOISY_DRAWS = 3
MEASURES_OF_PLACE = ("pointing_game", "pointing_game_15", "energy_in_box", "rank_accuracy")
MEASURES_OF_PEAK = ("peak_down", "peak_right")
MEASURES_OF_SLICES = ("pointing_game", "energy_in_box", "energy_lift")

Attribute = Callable[[np.ndarray, int], np.ndarray]
Rows = dict[str, np.ndarray]


@dataclass(frozen=True)
class Measuring:
    """What all measurements share: the model, the pictures, whose `targets` are explained, and how many of them."""

    classifier: Classifier
    sets: dict[str, BoxedScans]
    targets: dict[str, np.ndarray]
    limit: int | None = None
    seed: int = 0
    baseline: str = "black"

    def count(self, name: str, forward_passes: int) -> int:
        """Return on how many images of a set a map is measured; it depends on the declared cost, never on the clock.

        Validation only chooses thresholds and weights, so a quarter as many are enough for expensive methods.
        """
        expensive = EXPENSIVE_IMAGES // 4 if name == "validation" else EXPENSIVE_IMAGES
        wanted = len(self.sets[name]) if forward_passes <= CHEAP_PASSES else expensive
        return min(len(self.sets[name]), wanted, wanted if self.limit is None else self.limit)

    def mean(self, values: np.ndarray, pictures: np.ndarray, weights: np.ndarray | None = None) -> dict:
        """Return the (weighted) mean over test pictures, given by their indices, with its interval and n."""
        weights = np.ones(len(values)) if weights is None else weights
        groups = self.sets["test"].groups[pictures]
        return ratio_with_interval(values * weights, weights, groups, BOOTSTRAP_SAMPLES, self.seed)

    def attribute(self, method: str) -> Attribute:
        """Return the method as a function of pixels uint8 [H, W] and target; a map is made once for all measures."""
        made = {}

        def attribute(pixels: np.ndarray, target: int) -> np.ndarray:
            key = pixels.tobytes(), int(target)
            if key not in made:
                made[key] = explain(self.classifier, Image.fromarray(pixels), method, int(target)).attribution
            return made[key]

        return attribute

    def randomised(self) -> dict[str, "Measuring"]:
        """Return the same for models that have forgotten the upper half of their layers, and all of them."""
        others = {}
        for name, share in (("randomized_half", 0.5), ("randomized", 1.0)):
            model = quality.randomised(self.classifier.model, share, self.seed).requires_grad_(False)
            others[name] = replace(self, classifier=replace(self.classifier, model=model))
        return others


def measure_all(measuring: Measuring, methods: Sequence[str], answers: np.ndarray) -> dict:
    """Measure methods and baselines; `answers` are the predicted classes of the test pictures."""
    weights, rows = {}, {}
    forgetful = measuring.randomised()
    found = {"methods": {}, "baselines": {}, "alignment": {}}
    for method in methods:
        if method == CONSENSUS:
            informed = {"consensus_weights": normalised(weights)}
            measuring = replace(measuring, classifier=replace(measuring.classifier, explanations=informed))
            forgetful = measuring.randomised()
        cost = METHODS[method].forward_passes
        settings = explain(measuring.classifier, Image.fromarray(measuring.sets["test"].pixels[0]), method).settings
        attribute = measuring.attribute(method)
        results, validation, rows[method] = measure(measuring, method, attribute, cost, settings)
        results |= stability(measuring, forgetful, method, attribute)
        found["methods"][method] = results | {"forward_passes": cost}
        if method != CONSENSUS:
            weights[method] = skill(validation)
        if "stretched" in rows[method]:
            found["alignment"][method] = alignment(measuring, rows[method])
    for name, draw in quality.BASELINES.items():
        results, _, rows[name] = measure(measuring, name, lambda pixels, target, draw=draw: draw(pixels), 0)
        found["baselines"][name] = results
    knows_nothing = forgetful["randomized"].attribute(methods[0])
    cost = METHODS[methods[0]].forward_passes
    results, _, rows["random_weights"] = measure(measuring, "random_weights", knows_nothing, cost)
    found["baselines"]["random_weights"] = results | {"method": methods[0]}
    return found | slices(measuring, rows, answers) | {"consensus_weights": normalised(weights)}


def measure(
    measuring: Measuring, name: str, attribute: Attribute, cost: int, settings: dict | None = None
) -> tuple[dict, Rows, Rows]:
    """Return one method's (or baseline's) results, and the localisation of each validation and test picture."""
    rows = {part: localise(measuring, part, name, attribute, cost, settings or {}) for part in ("validation", "test")}
    accuracies = box_accuracies(rows["validation"]).mean(axis=0)
    best = int(accuracies.argmax())
    accuracy = measuring.mean(box_accuracies(rows["test"])[:, best], rows["test"]["picture"])
    results = summary(measuring, rows["test"]) | {"box_accuracy": accuracy, "box_threshold": float(THRESHOLDS[best])}
    return results | faithfulness(measuring, name, attribute, cost), rows["validation"], rows["test"]


def localise(measuring: Measuring, part: str, name: str, attribute: Attribute, cost: int, settings: dict) -> Rows:
    """Measure the maps of the first pictures of a set; where they are made of cells, also as others draw them."""
    scans, targets, count = measuring.sets[part], measuring.targets[part], measuring.count(part, cost)
    rows = []
    for i in tqdm(range(count), desc=f"{name}: {part}", leave=False):
        attribution = attribute(scans.pixels[i], targets[i])
        row = {"picture": i, **place(attribution, scans.boxes[i])}
        if part == "test" and {"cells", "stride", "offset"} <= settings.keys():
            row["stretched"] = place(stretched(attribution, settings), scans.boxes[i])
        rows.append(row)
    return {key: np.array([row[key] for row in rows]) for key in rows[0]}


def place(attribution: np.ndarray, fractions: np.ndarray) -> dict[str, float | np.ndarray]:
    """Return how well one map lies on its box."""
    box = quality.pixel_box(fractions.tolist(), attribution.shape)
    down, right = quality.peak_offset(attribution, box)
    return {
        "pointing_game": quality.pointing_game(attribution, box),
        "pointing_game_15": quality.pointing_game(attribution, box, TOLERANCE),
        "energy_in_box": quality.energy_in_box(attribution, box),
        "rank_accuracy": quality.rank_accuracy(attribution, box),
        "peak_down": down,
        "peak_right": right,
        "box_share": quality.box_share(box, attribution.shape),
        "ious": quality.area_ious(attribution, box, THRESHOLDS),
    }


def box_accuracies(rows: Rows) -> np.ndarray:
    """Return the box accuracy of each picture at each threshold, [n, thresholds]."""
    return np.vectorize(quality.box_accuracy)(rows["ious"])


def stretched(attribution: np.ndarray, settings: dict) -> np.ndarray:
    """Return the map as `F.interpolate` would lay the same cells on the picture, whatever their true place.

    The cells are read off the map at their centres.
    """
    height, width = attribution.shape
    rows, columns = (
        (offset + stride * np.arange(count)).round().clip(0, side - 1).astype(int)
        for side, count, stride, offset in zip(
            attribution.shape, settings["cells"], settings["stride"], settings["offset"], strict=True
        )
    )
    cells = torch.from_numpy(attribution[np.ix_(rows, columns)])[None, None]
    stride = (height / len(rows), width / len(columns))
    layer = TargetLayer("", tuple(cells.shape[2:]), stride, tuple(step / 2 - 0.5 for step in stride))
    return resample_to_image(cells, layer, (height, width))[0, 0].numpy()


def summary(measuring: Measuring, rows: Rows) -> dict[str, dict]:
    """Return the mean of every measure of place with its interval.

    The lift is mean energy over mean share of box; how far down and right of the box the peak lies is the mean over
    the pictures where it is within the tolerance, as others were pointed at something else.
    """
    pictures, share = rows["picture"], rows["box_share"]
    found = {key: measuring.mean(rows[key], pictures) for key in MEASURES_OF_PLACE}
    found["energy_lift"] = measuring.mean(rows["energy_in_box"] / share, pictures, weights=share)
    near = rows["pointing_game_15"] > 0
    for key in MEASURES_OF_PEAK if near.any() else ():
        found[key] = measuring.mean(rows[key][near], pictures[near])
    return found


def faithfulness(measuring: Measuring, name: str, attribute: Attribute, cost: int) -> dict[str, dict]:
    """Replace pixels in the order of the map, and see how the calibrated probability of the class falls."""
    classifier, scans, targets = measuring.classifier, measuring.sets["test"], measuring.targets["test"]
    height, width = classifier.preprocessing.size
    black = classifier.prepare(Image.new("L", (width, height))).pixel_values
    count = min(measuring.count("test", cost), FAITHFULNESS_IMAGES)
    rows = []
    for i in tqdm(range(count), desc=f"{name}: faithfulness", leave=False):

        def probability(pixel_values: torch.Tensor, target: int = int(targets[i])) -> torch.Tensor:
            return torch.softmax(classifier.logits(pixel_values) / classifier.temperature, dim=1)[:, target]

        pixel_values = classifier.prepare(Image.fromarray(scans.pixels[i])).pixel_values
        baseline = black if measuring.baseline == "black" else quality.blurred(pixel_values)
        attribution = attribute(scans.pixels[i], targets[i])
        rows.append(quality.faithfulness(probability, pixel_values, attribution, baseline, seed=measuring.seed + i))
    return means(measuring, rows)


def stability(
    measuring: Measuring, forgetful: dict[str, Measuring], method: str, attribute: Attribute
) -> dict[str, dict]:
    """Return how far a method's maps move with a little noise, and how much stays when the model forgets its layers."""
    scans, targets = measuring.sets["test"], measuring.targets["test"]
    count = min(measuring.count("test", METHODS[method].forward_passes), STABILITY_IMAGES)
    others = {name: other.attribute(method) for name, other in forgetful.items()}
    rows = []
    for i in tqdm(range(count), desc=f"{method}: stability", leave=False):

        def of_picture(picture: np.ndarray, target: int = targets[i]) -> np.ndarray:
            return attribute((picture * 255).round().astype(np.uint8), target)

        row = {"max_sensitivity": quality.max_sensitivity(of_picture, scans.pixels[i] / 255, draws=NOISY_DRAWS, seed=i)}
        learnt = attribute(scans.pixels[i], targets[i])
        for name, other in others.items():
            row[name] = quality.rank_similarity(learnt, other(scans.pixels[i], targets[i]))
        rows.append(row)
    return means(measuring, rows)


def means(measuring: Measuring, rows: list[dict[str, float]]) -> dict[str, dict]:
    """Return the mean of every number of the first test pictures with its interval."""
    return {key: measuring.mean(np.array([row[key] for row in rows]), np.arange(len(rows))) for key in rows[0]}


def alignment(measuring: Measuring, rows: Rows) -> dict[str, dict]:
    """Compare maps in their measured place with the same cells stretched over the picture, picture by picture."""
    usual = {key: np.array([row[key] for row in rows["stretched"]]) for key in rows["stretched"][0]}
    usual["picture"] = rows["picture"]
    both = {"aligned": summary(measuring, rows), "stretched": summary(measuring, usual)}
    found = {}
    for key in ("pointing_game", "energy_in_box"):
        found[key] = {name: results[key] for name, results in both.items()}
        found[key]["difference"] = measuring.mean(rows[key] - usual[key], rows["picture"])
    for key in MEASURES_OF_PEAK:
        found[key] = {name: results[key] for name, results in both.items() if key in results}
    return found


def slices(measuring: Measuring, rows: dict[str, Rows], answers: np.ndarray) -> dict[str, dict]:
    """Return the measures of place by class, by third of tumour size, and for right and wrong answers."""
    scans, names = measuring.sets["test"], measuring.classifier.label_names
    share = np.prod(scans.boxes[:, 2:] - scans.boxes[:, :2], axis=1)
    bounds = np.quantile(share, [1 / 3, 2 / 3])
    thirds = np.digitize(share, bounds)
    right = answers == scans.labels[: len(answers)]
    divisions = {
        "by_class": {name: scans.labels == i for i, name in enumerate(names) if (scans.labels == i).any()},
        "by_size": {name: thirds == i for i, name in enumerate(("small", "medium", "large"))},
        "by_answer": {"right": right, "wrong": ~right},
    }

    def of_slice(chosen: np.ndarray) -> dict[str, dict]:
        parts = {}
        for name, row in rows.items():
            inside = chosen[row["picture"]]
            if inside.any():
                results = summary(measuring, {key: values[inside] for key, values in row.items()})
                parts[name] = {key: results[key] for key in MEASURES_OF_SLICES}
        return parts

    found = {kind: {name: of_slice(chosen) for name, chosen in parts.items()} for kind, parts in divisions.items()}
    return found | {"size_bounds": bounds.tolist()}


def skill(validation: Rows) -> float:
    """Return how much better than chance a method finds the tumour on validation: the mean of pointing and energy."""
    found = (validation["pointing_game"] + validation["energy_in_box"]) / 2
    return max(0.0, float((found - validation["box_share"]).mean()))


def normalised(weights: dict[str, float]) -> dict[str, float]:
    """Scale the weights to sum to 1; equal ones where no method is better than chance."""
    total = sum(weights.values())
    return {name: weight / total if total > 0 else 1 / len(weights) for name, weight in weights.items()}
