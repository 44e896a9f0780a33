"""How good the maps of each method are on held-out images: localization, faithfulness, stability, and sanity.

Reported numbers are dicts `{"value", "low", "high", "n"}`, the mean over test images with its interval.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from tqdm.auto import tqdm

from brain_xai import quality
from brain_xai.classifier import Classifier
from brain_xai.explanation import explain
from brain_xai.methods import METHODS
from brain_xai.methods.cam import resample_to_image
from brain_xai.methods.target_layer import TargetLayer
from training.evaluation.held_out import BoxedScans
from training.evaluation.metrics import Bootstrap, ratio_with_interval

CONSENSUS = "consensus"  # its weights come from the measurements of the other methods
TOLERANCE = 15  # pixels of the view
THRESHOLDS = np.arange(5, 100, 5) / 100
# Methods that cost at most this many forward passes are measured on every image, the others on EXPENSIVE_IMAGES.
CHEAP_PASSES = 12
EXPENSIVE_IMAGES = 100
# Each image takes 20 forward passes for the faithfulness curves, and six maps for stability and sanity.
FAITHFULNESS_IMAGES = 100
STABILITY_IMAGES = 30
NOISY_SAMPLES = 3
MEAN_MEASURES = ("pointing_game", "pointing_game_15", "energy_in_box", "rank_accuracy")
PEAK_MEASURES = ("peak_down", "peak_right")
SUBGROUP_MEASURES = ("pointing_game", "energy_in_box", "energy_lift")

# Pixels uint8 [H, W] and a target class -> attribution float32 [H, W].
Attribute = Callable[[np.ndarray, int], np.ndarray]
# One number (or row of numbers) per image by measure; "image" holds the index of the image in its set.
PerImage = dict[str, np.ndarray]


@dataclass(frozen=True)
class Candidate:
    """A method or baseline to be measured.

    Attributes:
        name: Shown while it is measured.
        attribute: Makes a map.
        forward_passes: What a map costs; 0 for baselines.
        layer: Where the feature map that its maps are resampled from lies; None if they are not resampled.
    """

    name: str
    attribute: Attribute
    forward_passes: int = 0
    layer: TargetLayer | None = None


@dataclass(frozen=True)
class Benchmark:
    """What all measurements share.

    Attributes:
        classifier: The model whose maps are measured.
        sets: The held-out images "validation" and "test".
        targets: The class that is explained for each image of each set, int [n].
        limit: The most images of a set that any method is measured on; None for no limit.
        seed: Seed of the bootstrap, of the randomized models, and of the order of equal pixels.
        baseline: What replaces pixels for the faithfulness curves, "black" or "blurred".
    """

    classifier: Classifier
    sets: dict[str, BoxedScans]
    targets: dict[str, np.ndarray]
    limit: int | None = None
    seed: int = 0
    baseline: str = "black"

    def sample_size(self, split: str, forward_passes: int) -> int:
        """Return on how many images of a set a map is measured; it depends on the declared cost, never on the clock.

        Validation only chooses thresholds and weights, so a quarter as many are enough for expensive methods.
        """
        expensive = EXPENSIVE_IMAGES // 4 if split == "validation" else EXPENSIVE_IMAGES
        available = len(self.sets[split])
        wanted = available if forward_passes <= CHEAP_PASSES else min(expensive, available)
        return wanted if self.limit is None else min(wanted, self.limit)

    def mean(self, values: np.ndarray, images: np.ndarray, weights: np.ndarray | None = None) -> dict:
        """Return the (weighted) mean over the test images with these indices, with interval and n."""
        weights = np.ones(len(values)) if weights is None else weights
        groups = self.sets["test"].groups[images]
        return ratio_with_interval(values * weights, weights, groups, Bootstrap(seed=self.seed))

    def means(self, rows: list[dict[str, float]]) -> dict[str, dict]:
        """Return the mean of every measure, given a row for each of the first test images."""
        images = np.arange(len(rows))
        return {measure: self.mean(np.array([row[measure] for row in rows]), images) for measure in rows[0]}

    def method(self, key: str) -> Candidate:
        """Return a method of METHODS as a candidate; each map is computed once and shared by all measures."""
        maps = {}

        def attribute(pixels: np.ndarray, target: int) -> np.ndarray:
            image = pixels.tobytes(), int(target)
            if image not in maps:
                maps[image] = explain(self.classifier, pixels, key, int(target)).attribution
            return maps[image]

        settings = explain(self.classifier, self.sets["test"].pixels[0], key).settings
        layer = None
        if {"cells", "stride", "offset"} <= settings.keys():
            layer = TargetLayer(settings["target_layer"], settings["cells"], settings["stride"], settings["offset"])
        return Candidate(key, attribute, METHODS[key].forward_passes, layer)

    @cached_property
    def randomized(self) -> dict[str, "Benchmark"]:
        """The same benchmark for copies of the model whose upper half of layers, or all of them, are randomized."""
        benchmarks = {}
        for name, fraction in (("randomized_half", 0.5), ("randomized", 1.0)):
            model = quality.randomize_parameters(self.classifier.model, fraction, self.seed).requires_grad_(False)
            benchmarks[name] = replace(self, classifier=replace(self.classifier, model=model))
        return benchmarks

    def with_consensus_weights(self, weights: dict[str, float]) -> "Benchmark":
        """Return the benchmark of a classifier whose consensus uses these weights."""
        return replace(self, classifier=replace(self.classifier, explanations={"consensus_weights": weights}))


def measure_all(benchmark: Benchmark, methods: Sequence[str], predictions: np.ndarray) -> dict:
    """Measure methods and baselines.

    Args:
        benchmark: The images and the model.
        methods: Keys of METHODS, the consensus last.
        predictions: The predicted class of the first test images, int [n].

    Returns:
        The results of "methods" and "baselines", "alignment", the results by subgroup and "consensus_weights".
    """
    results = {"methods": {}, "baselines": {}, "alignment": {}}
    gains, per_image = {}, {}
    for method in methods:
        if method == CONSENSUS:
            benchmark = benchmark.with_consensus_weights(normalize_weights(gains))
        candidate = benchmark.method(method)
        measured, on_validation, per_image[method] = measure_candidate(benchmark, candidate)
        stable = measure_stability(benchmark, candidate)
        results["methods"][method] = measured | stable | {"forward_passes": candidate.forward_passes}
        if method != CONSENSUS:
            gains[method] = gain_over_chance(on_validation)
        if candidate.layer is not None:
            results["alignment"][method] = compare_alignment(benchmark, candidate, per_image[method])
    for candidate in [*baselines(), random_weights(benchmark, methods[0])]:
        results["baselines"][candidate.name], _, per_image[candidate.name] = measure_candidate(benchmark, candidate)
    results["baselines"]["random_weights"]["method"] = methods[0]
    results["consensus_weights"] = normalize_weights(gains)
    return results | by_subgroup(benchmark, per_image, predictions)


def baselines() -> list[Candidate]:
    """Return maps that know nothing of the model."""
    return [Candidate(name, lambda pixels, target, draw=draw: draw(pixels)) for name, draw in quality.BASELINES.items()]


def random_weights(benchmark: Benchmark, method: str) -> Candidate:
    """Return the maps of `method` on a model with randomized weights."""
    return replace(benchmark.randomized["randomized"].method(method), name="random_weights")


def measure_candidate(benchmark: Benchmark, candidate: Candidate) -> tuple[dict, PerImage, PerImage]:
    """Return a candidate's results, and its localization on each validation and each test image."""
    validation, test = (localize(benchmark, candidate, split) for split in ("validation", "test"))
    best = int(box_accuracies(validation).mean(axis=0).argmax())
    results = summarize(benchmark, test) | {
        "box_accuracy": benchmark.mean(box_accuracies(test)[:, best], test["image"]),
        "box_threshold": float(THRESHOLDS[best]),
    }
    return results | measure_faithfulness(benchmark, candidate), validation, test


def localize(benchmark: Benchmark, candidate: Candidate, split: str) -> PerImage:
    """Measure where a candidate's maps of the first images of a set lie."""
    scans, targets = benchmark.sets[split], benchmark.targets[split]
    rows = []
    for i in _progress(benchmark.sample_size(split, candidate.forward_passes), f"{candidate.name}: {split}"):
        attribution = candidate.attribute(scans.pixels[i], targets[i])
        rows.append({"image": i, **localization(attribution, scans.boxes[i])})
    return {measure: np.array([row[measure] for row in rows]) for measure in rows[0]}


def localization(attribution: np.ndarray, box: np.ndarray) -> dict[str, float | np.ndarray]:
    """Compare one map [H, W] with its box (x_min, y_min, x_max, y_max in fractions)."""
    pixel_box = quality.pixel_box(box.tolist(), attribution.shape)
    down, right = quality.peak_offset(attribution, pixel_box)
    return {
        "pointing_game": quality.pointing_game(attribution, pixel_box),
        "pointing_game_15": quality.pointing_game(attribution, pixel_box, TOLERANCE),
        "energy_in_box": quality.energy_in_box(attribution, pixel_box),
        "rank_accuracy": quality.rank_accuracy(attribution, pixel_box),
        "peak_down": down,
        "peak_right": right,
        "box_share": quality.box_share(pixel_box, attribution.shape),
        "ious": quality.area_ious(attribution, pixel_box, THRESHOLDS),
    }


def box_accuracies(per_image: PerImage) -> np.ndarray:
    """Return the box accuracy of each image at each threshold, [n, thresholds]."""
    return np.vectorize(quality.box_accuracy)(per_image["ious"])


def summarize(benchmark: Benchmark, per_image: PerImage) -> dict[str, dict]:
    """Return the mean of every localization measure.

    `energy_lift` is mean energy over mean share of the box. The offset of the peak from the box is the mean over the
    images where the peak is within the tolerance, because elsewhere the map points at something else.
    """
    images, share = per_image["image"], per_image["box_share"]
    results = {measure: benchmark.mean(per_image[measure], images) for measure in MEAN_MEASURES}
    results["energy_lift"] = benchmark.mean(per_image["energy_in_box"] / share, images, weights=share)
    near = per_image["pointing_game_15"] > 0
    for measure in PEAK_MEASURES if near.any() else ():
        results[measure] = benchmark.mean(per_image[measure][near], images[near])
    return results


def measure_faithfulness(benchmark: Benchmark, candidate: Candidate) -> dict[str, dict]:
    """Replace pixels in the order of the map and follow the calibrated probability of the explained class."""
    classifier, scans, targets = benchmark.classifier, benchmark.sets["test"], benchmark.targets["test"]
    count = min(benchmark.sample_size("test", candidate.forward_passes), FAITHFULNESS_IMAGES)
    rows = []
    for i in _progress(count, f"{candidate.name}: faithfulness"):

        def probability(pixel_values: torch.Tensor, target: int = int(targets[i])) -> torch.Tensor:
            return torch.softmax(classifier.logits(pixel_values) / classifier.temperature, dim=1)[:, target]

        pixel_values = classifier.prepare(scans.pixels[i]).pixel_values
        baseline = classifier.black.cpu() if benchmark.baseline == "black" else quality.blurred(pixel_values)
        attribution = candidate.attribute(scans.pixels[i], targets[i])
        rows.append(quality.faithfulness(probability, pixel_values, attribution, baseline, seed=benchmark.seed + i))
    return benchmark.means(rows)


def measure_stability(benchmark: Benchmark, candidate: Candidate) -> dict[str, dict]:
    """Return how far a method's maps move with a little noise, and how similar they stay on randomized models."""
    scans, targets = benchmark.sets["test"], benchmark.targets["test"]
    randomized = {name: other.method(candidate.name) for name, other in benchmark.randomized.items()}
    count = min(benchmark.sample_size("test", candidate.forward_passes), STABILITY_IMAGES)
    rows = []
    for i in _progress(count, f"{candidate.name}: stability"):

        def attribute(gray: np.ndarray, target: int = targets[i]) -> np.ndarray:
            return candidate.attribute((gray * 255).round().astype(np.uint8), target)

        gray, learned = scans.pixels[i] / 255, candidate.attribute(scans.pixels[i], targets[i])
        row = {"max_sensitivity": quality.max_sensitivity(attribute, gray, num_samples=NOISY_SAMPLES, seed=i)}
        for name, other in randomized.items():
            row[name] = quality.rank_similarity(learned, other.attribute(scans.pixels[i], targets[i]))
        rows.append(row)
    return benchmark.means(rows)


def compare_alignment(benchmark: Benchmark, candidate: Candidate, aligned: PerImage) -> dict[str, dict]:
    """Compare maps placed by their receptive fields with the same feature maps stretched over the image, in pairs."""

    def attribute(pixels: np.ndarray, target: int) -> np.ndarray:
        return stretch(candidate.attribute(pixels, target), candidate.layer)

    stretched = localize(benchmark, replace(candidate, attribute=attribute), "test")
    both = {"aligned": summarize(benchmark, aligned), "stretched": summarize(benchmark, stretched)}
    compared = {}
    for measure in ("pointing_game", "energy_in_box"):
        difference = benchmark.mean(aligned[measure] - stretched[measure], aligned["image"])
        compared[measure] = {name: results[measure] for name, results in both.items()} | {"difference": difference}
    for measure in PEAK_MEASURES:
        compared[measure] = {name: results[measure] for name, results in both.items() if measure in results}
    return compared


def stretch(attribution: np.ndarray, layer: TargetLayer) -> np.ndarray:
    """Return the map [H, W] that `F.interpolate` makes of the same feature map, whatever its receptive fields.

    The feature map is read off the attribution at the centers of its receptive fields.
    """
    rows, columns = (
        (offset + stride * np.arange(count)).round().clip(0, side - 1).astype(int)
        for side, count, stride, offset in zip(
            attribution.shape, layer.grid_size, layer.stride, layer.offset, strict=True
        )
    )
    feature_map = torch.from_numpy(attribution[np.ix_(rows, columns)])[None, None]
    stride = tuple(side / count for side, count in zip(attribution.shape, layer.grid_size, strict=True))
    usual = replace(layer, stride=stride, offset=tuple(step / 2 - 0.5 for step in stride))
    return resample_to_image(feature_map, usual, attribution.shape)[0, 0].numpy()


def by_subgroup(benchmark: Benchmark, per_image: dict[str, PerImage], predictions: np.ndarray) -> dict[str, dict]:
    """Return the localization of every candidate by class, by third of tumor size, and by right and wrong answer."""
    scans, label_names = benchmark.sets["test"], benchmark.classifier.label_names
    share = np.prod(scans.boxes[:, 2:] - scans.boxes[:, :2], axis=1)
    bounds = np.quantile(share, [1 / 3, 2 / 3])
    thirds = np.digitize(share, bounds)
    right = predictions == scans.labels[: len(predictions)]
    subgroups = {
        "by_class": {name: scans.labels == i for i, name in enumerate(label_names) if (scans.labels == i).any()},
        "by_size": {name: thirds == i for i, name in enumerate(("small", "medium", "large"))},
        "by_answer": {"right": right, "wrong": ~right},
    }

    def measure_subgroup(members: np.ndarray) -> dict[str, dict]:
        results = {}
        for name, values in per_image.items():
            inside = members[values["image"]]
            if inside.any():
                summary = summarize(benchmark, {measure: column[inside] for measure, column in values.items()})
                results[name] = {measure: summary[measure] for measure in SUBGROUP_MEASURES}
        return results

    return {
        kind: {name: measure_subgroup(members) for name, members in parts.items()} for kind, parts in subgroups.items()
    } | {"size_bounds": bounds.tolist()}


def gain_over_chance(per_image: PerImage) -> float:
    """Return by how much the mean of pointing game and energy exceeds that of a uniform map, at least 0."""
    score = (per_image["pointing_game"] + per_image["energy_in_box"]) / 2
    return max(0.0, float((score - per_image["box_share"]).mean()))


def normalize_weights(weights: dict[str, float]) -> dict[str, float]:
    """Scale the weights to sum to 1; equal weights if no method is better than chance."""
    total = sum(weights.values())
    return {name: weight / total if total > 0 else 1 / len(weights) for name, weight in weights.items()}


def _progress(count: int, description: str) -> tqdm:
    return tqdm(range(count), desc=description, leave=False)
