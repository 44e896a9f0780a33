"""`explain_study`: an answer for every slice of a study, and a map of any of them; never one for the patient."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from brain_xai.classifier import Classifier, Prediction, PredictionWarning
from brain_xai.explanation import Explanation, explain
from brain_xai.methods import METHODS
from brain_xai.preprocess import to_original
from brain_xai.study.head import Place, places
from brain_xai.study.study import Study

# More at once does not help on a CPU.
BATCH = 8
# Explanations that are kept, at most 1 MB each.
KEPT = 64
# Slices that are nearer than this part of the study show nearly the same.
APART = 15
PLACE_WARNINGS = {
    Place.OUTSIDE: PredictionWarning(
        "outside_head", "There is little or nothing of the head in this slice. The answer means nothing."
    ),
    Place.EDGE: PredictionWarning(
        "edge_of_head",
        "This is one of the outer slices of the head, such as the skull base. Models know few of them, and often err.",
    ),
}

Progress = Callable[[int, int], object]


@dataclass(frozen=True, eq=False)
class StudyExplanation:
    """What a model makes of each slice of a study. It says nothing about the patient as a whole.

    Attributes:
        classifier: The model.
        study: The slices.
        method: A key of METHODS: how the maps are made.
        target: The index of the class that all maps explain.
        predictions: The answer for each slice, with its warnings.
        places: Where each slice lies.
        warnings: What users must know about the study as a whole.
    """

    classifier: Classifier
    study: Study
    method: str
    target: int
    predictions: tuple[Prediction, ...]
    places: tuple[Place, ...]
    warnings: tuple[PredictionWarning, ...]

    def __post_init__(self):
        object.__setattr__(self, "_kept", OrderedDict())
        object.__setattr__(self, "_lock", threading.Lock())

    @property
    def label(self) -> str:
        """The class that all maps explain."""
        return self.classifier.label_names[self.target]

    def text(self, label: str) -> str:
        """Return what people read for a label; never the bare words "no tumor", which nobody can know."""
        return "no tumor recognized" if label == self.classifier.no_tumor_label else label.replace("_", " ")

    def numbers(self, index: int, translate: Callable[[str], str] = str) -> str:
        """Return the probabilities of a slice as people read them, such as "glioma 83 %, no tumor recognized 17 %"."""
        return ", ".join(
            f"{translate(self.text(label))} {percent(p)}" for label, p in self.predictions[index].probabilities.items()
        )

    def suspicion(self, index: int) -> float:
        """Return how much speaks for a tumor in a slice, 0 to 1.

        That is the probability of all classes but "no tumor", or of `label` if the model has no such class.
        """
        probabilities = self.predictions[index].probabilities
        healthy = self.classifier.no_tumor_label
        return probabilities[self.label] if healthy is None else max(1 - probabilities[healthy], 0.0)

    def ranking(self) -> list[int]:
        """Return the slices, the most suspicious first; those that show no head, or no brain MRI, are last."""

        def key(index: int) -> tuple[bool, float]:
            codes = {warning.code for warning in self.predictions[index].warnings}
            return bool(codes & {"outside_head", "not_brain_mri"}), -self.suspicion(index)

        return sorted(range(len(self.study)), key=key)

    def highlights(self, count: int) -> list[int]:
        """Return suspicious slices that do not lie side by side, the most suspicious first."""
        chosen: list[int] = []
        apart = max(len(self.study) // APART, 1)
        for index in self.ranking():
            if len(chosen) < count and all(abs(index - other) >= apart for other in chosen):
                chosen.append(index)
        return chosen

    def explanation(self, index: int) -> Explanation:
        """Return the map of one slice, with its warnings; computed when it is first asked for."""
        with self._lock:
            if (known := self._kept.get(index)) is not None:
                self._kept.move_to_end(index)
                return known
        made = explain(self.classifier, self.study.image(index), self.method, self.target)
        made = replace(made, prediction=self.predictions[index])
        with self._lock:
            self._kept[index] = made
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return made

    def map(self, index: int) -> np.ndarray:
        """Return the map of a slice on the pixels of the slice.

        Returns:
            Float32 [rows, columns] in the method's unit: > 0 speaks for `label`, < 0 against it, 0 where the model did
            not see the slice.
        """
        attribution = self.explanation(index).attribution
        on_image = to_original(attribution, self.study.image(index), self.classifier.preprocessing)
        return self.study.to_slice(on_image)

    def volume_map(self, progress: Progress | None = None) -> np.ndarray:
        """Return the maps of all slices on the grid of the volume.

        Args:
            progress: Called as `progress(done, total)` after each slice; what it raises ends the work.

        Returns:
            Float32 [d0, d1, d2], voxel for voxel like `study.volume.values`.
        """
        values = np.zeros(self.study.volume.values.shape, dtype=np.float32)
        slices = self.study.displayed(values)  # a view: each slice is written to where it lies in the volume
        for index in range(len(self.study)):
            slices[index] = self.map(index)
            if progress:
                progress(index + 1, len(self.study))
        return values


def explain_study(
    classifier: Classifier,
    study: Study,
    method: str = "grad_cam",
    target: str | int = "suspected",
    *,
    progress: Progress | None = None,
) -> StudyExplanation:
    """Classify every slice of a study; maps are computed when they are asked for.

    Args:
        classifier: The model.
        study: What `read_study` returns.
        method: A key of METHODS.
        target: The class that all maps explain, a label or an index; "suspected" is the class other than "no tumor"
            that is most probable in any slice.
        progress: Called as `progress(done, total)` in slices; what it raises, such as `Cancelled`, ends the work.

    Returns:
        The answers, and the maps on demand.

    Raises:
        ValueError: Method or target does not exist.
        MethodNotApplicable: The method cannot work on this architecture.
        UnreadableImage: The slices are too small or too long and thin.
    """
    if method not in METHODS:
        raise ValueError(f"{method!r} is not a method. Use one of: {', '.join(METHODS)}.")
    if target == "predicted":
        raise ValueError('A study has no predicted class. Use "suspected" or a label.')
    where, predictions = places(study), []
    for start in range(0, len(study), BATCH):
        predictions += _predict(classifier, study, range(start, min(start + BATCH, len(study))))
        if progress:
            progress(len(predictions), len(study))
    predictions = [_placed(prediction, place) for prediction, place in zip(predictions, where, strict=True)]
    suspected = _suspected(classifier, predictions, where)
    index = classifier.target_index(suspected if target == "suspected" else target, torch.empty(0))
    warnings = tuple(PredictionWarning(note.code, note.message) for note in study.notes)
    done = StudyExplanation(classifier, study, method, index, tuple(predictions), where, warnings)
    done.explanation(done.ranking()[0])  # a method that cannot work is refused now
    return done


def _predict(classifier: Classifier, study: Study, indices: range) -> list[Prediction]:
    """Return the answers for some slices, from one forward pass."""
    prepared = [classifier.prepare(study.image(index)) for index in indices]
    output = classifier.forward(torch.cat([one.pixel_values for one in prepared]))
    return [classifier.prediction(output.single(k), one.looks) for k, one in enumerate(prepared)]


def _placed(prediction: Prediction, place: Place) -> Prediction:
    """Return an answer with the warning about where its slice lies, if there is one."""
    warning, others = PLACE_WARNINGS.get(place), prediction.warnings
    if warning is None:
        return prediction
    if place is Place.OUTSIDE:  # that it does not look like a brain MRI goes without saying
        others = tuple(other for other in others if other.code != "not_brain_mri")
    return replace(prediction, warnings=(warning, *others))


def _suspected(classifier: Classifier, predictions: list[Prediction], where: tuple[Place, ...]) -> str:
    """Return the class other than "no tumor" that is most probable in any slice that shows the head."""
    shown = [one for one, place in zip(predictions, where, strict=True) if place is not Place.OUTSIDE] or predictions
    labels = [label for label in classifier.label_names if label != classifier.no_tumor_label]
    return max(labels, key=lambda label: max(one.probabilities[label] for one in shown))


def percent(probability: float) -> str:
    """Return a probability as people read it; no model may say 0 or 100 %."""
    if probability < 0.01:
        return "< 1 %"
    return "> 99 %" if probability > 0.99 else f"{100 * probability:.0f} %"
