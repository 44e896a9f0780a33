"""A model with its labels: an image goes in, calibrated probabilities come out."""

import copy
import functools
import os
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from PIL import Image

from brain_xai.doubts import Map, disagreement, evidence_against
from brain_xai.forward import ModelOutput, class_grids, run
from brain_xai.forward import linear_head as _linear_head
from brain_xai.looks import Looks
from brain_xai.preprocess import ModelInput, Preprocessing, prepare
from brain_xai.trust import CANNOT_SAY, MESSAGES, Seen, Trust


@dataclass(frozen=True)
class CheckpointInfo:
    """Which weights answered: `id` as it was requested, `revision` (commit SHA or weights hash), `architecture`."""

    id: str
    revision: str
    architecture: str


@dataclass(frozen=True)
class PredictionWarning:
    """Something that users must know about an answer: a `code` for programs, a `message` for people."""

    code: str
    message: str


@dataclass(frozen=True)
class Prediction:
    """The answer for one image.

    Attributes:
        probabilities: {label: probability}; they sum to 1.
        label: The most probable label.
        warnings: What users must know about this answer.
        checkpoint: The weights that answered.
    """

    probabilities: dict[str, float]
    label: str
    warnings: tuple[PredictionWarning, ...]
    checkpoint: CheckpointInfo

    @property
    def cannot_say(self) -> bool:
        """Whether the honest answer is "cannot say": the image is unlike the training scans, or the call is close."""
        return any(warning.code in CANNOT_SAY for warning in self.warnings)


class ModelFacts:
    """What is computed only once per model; every classifier of the model shares it, and it is freed with them."""

    def __init__(self, model: torch.nn.Module):
        self.model = model
        self.private_lock = threading.RLock()  # a fact may be asked for by whoever holds the copy
        self._values: dict[Hashable, Any] = {}

    def get(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """Return the stored value of `key`. Two threads may compute it at once; all callers get the same result."""
        if key not in self._values:
            self._values.setdefault(key, compute())
        return self._values[key]


@dataclass(frozen=True, eq=False)
class Classifier:
    """A timm model in eval mode with everything needed to use it.

    It runs on whatever device its model is on; inputs are moved there, results come back on the CPU. Load a second
    classifier instead of moving a model that is in use.

    Attributes:
        model: Maps normalized pixel values [N, 3, H, W] to logits [N, classes].
        label_names: The labels, in the order of the logits.
        preprocessing: The size and normalization that the model was trained with.
        info: Where the weights come from.
        temperature: Divides the logits before the softmax (> 0), so that the probabilities are calibrated.
        attribution_scale: {method: attribution drawn in full color}, measured on validation scans.
        metrics: The content of metrics.json, {} without one.
        explanations: The content of explanations.json (how good the maps are), {} without one.
        trust: What tells images apart that are unlike the training scans, None if it was not fitted.
        no_tumor_label: The label of the healthy class, None if there is none or nobody knows.
        warnings: What is to be known about the checkpoint (e.g. "Hub unreachable"); every prediction repeats it.
        facts: Filled in by itself: what was computed about `model`, shared by `dataclasses.replace(classifier, ...)`.
    """

    model: torch.nn.Module
    label_names: tuple[str, ...]
    preprocessing: Preprocessing
    info: CheckpointInfo
    temperature: float = 1.0
    attribution_scale: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping = field(default_factory=dict)
    explanations: Mapping = field(default_factory=dict)
    trust: Trust | None = None
    no_tumor_label: str | None = None
    warnings: tuple[PredictionWarning, ...] = ()
    facts: ModelFacts | None = field(default=None, repr=False)

    def __post_init__(self):
        if self.facts is None or self.facts.model is not self.model:
            object.__setattr__(self, "facts", ModelFacts(self.model))

    @property
    def device(self) -> torch.device:
        """The device that the model is on."""
        return self._like().device

    @property
    def black(self) -> torch.Tensor:
        """The normalized pixel values of black, float [1, 3, 1, 1] on the model's device."""
        mean, std = torch.tensor(self.preprocessing.mean), torch.tensor(self.preprocessing.std)
        return self.to_device(((0 - mean) / std).view(1, 3, 1, 1))

    def to_device(self, values: torch.Tensor) -> torch.Tensor:
        """Return floating-point values on the model's device and in its floating-point type."""
        like = self._like()
        return values.to(like.device, like.dtype)

    def prepare(self, image: Image.Image | np.ndarray | str | os.PathLike) -> ModelInput:
        """Return the image in the form that the model sees, on the CPU; raises `UnreadableImage`."""
        return prepare(image, self.preprocessing)

    @torch.inference_mode()
    def logits(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Compute the logits of normalized images.

        Args:
            pixel_values: Float [N, 3, H, W] on any device.

        Returns:
            Float32 [N, classes] on the CPU.
        """
        return self.model(self.to_device(pixel_values)).float().cpu()

    def forward(self, pixel_values: torch.Tensor) -> ModelOutput:
        """Run the model once on normalized images, float [N, 3, H, W] on any device."""
        return run(self.model, self.to_device(pixel_values))

    def predict(self, image: Image.Image | np.ndarray | str | os.PathLike) -> Prediction:
        """Classify one image.

        Args:
            image: A PIL image, a NumPy array (see `brain_xai.preprocess.read_image`) or a path.

        Returns:
            The calibrated probabilities of all labels, with warnings.

        Raises:
            UnreadableImage: The image cannot be used; the message says why and what to do.
        """
        model_input = self.prepare(image)
        return self.prediction(self.forward(model_input.pixel_values), model_input.looks)

    def prediction(self, output: ModelOutput, looks: Looks) -> Prediction:
        """Turn the forward pass of one image, and what the image looks like, into a `Prediction` with warnings."""
        answer = self.answer(output)
        return replace(answer, warnings=answer.warnings + _warnings(self._codes(output, looks)))

    def answer(self, output: ModelOutput) -> Prediction:
        """Turn the forward pass of one image into a `Prediction` with the warnings of the checkpoint alone."""
        by_label = dict(zip(self.label_names, self.probabilities(output), strict=True))
        return Prediction(by_label, max(by_label, key=by_label.__getitem__), self.warnings, self.info)

    def probabilities(self, output: ModelOutput) -> list[float]:
        """Return the calibrated probability of each class for one image."""
        return torch.softmax(output.logits[0].double() / self.temperature, dim=0).tolist()

    @torch.inference_mode()
    def seen(self, output: ModelOutput, looks: Looks) -> Seen:
        """Return what `trust` judges one image by."""
        pooled = self.model.forward_head(output.features, pre_logits=True)[0].float().cpu().numpy().ravel()
        return Seen(
            np.concatenate([pooled, looks.view]),
            looks.measures,
            self.probabilities(output),
            self.evidence_against(output),
        )

    def evidence_against(self, output: ModelOutput) -> float:
        """Return the strongest evidence against a recognized "no tumor" in its Grad-CAM, in multiples of its scale.

        Returns:
            At least 0; 0 if the answer is another one, or if Grad-CAM would need more than the forward pass at hand.
        """
        scale, answer = self.attribution_scale.get("grad_cam"), int(output.logits[0].argmax())
        if self.label_names[answer] != self.no_tumor_label or scale is None or linear_head(self) is None:
            return 0.0
        return evidence_against(class_grids(output, linear_head(self))[0, answer].float().cpu().numpy(), scale)

    def disagreement_warnings(self, explanations: Sequence[Map]) -> tuple[PredictionWarning, ...]:
        """Return the warning that the maps of several methods, of one class on one image, disagree; else nothing."""
        limit, value = self.trust.methods_disagree if self.trust else None, disagreement(explanations)
        # No tumor is nowhere in particular.
        healthy = any(explanation.label == self.no_tumor_label for explanation in explanations)
        return () if limit is None or value is None or healthy or value < limit else _warnings(["methods_disagree"])

    def _codes(self, output: ModelOutput, looks: Looks) -> list[str]:
        """Return the codes of the warnings about one image."""
        codes = [] if self.trust is None else self.trust.codes(self.seen(output, looks))
        if looks.plainly_foreign:
            codes = ["not_brain_mri", *(code for code in codes if code not in ("not_brain_mri", "unusual_scan"))]
        return codes

    def target_index(self, target: str | int, logits: torch.Tensor) -> int:
        """Return the class index of `target`: a label, an index, or "predicted"; raises `ValueError`."""
        if target == "predicted":
            return int(logits.argmax())
        if target in self.label_names:
            return self.label_names.index(target)
        if isinstance(target, int) and not isinstance(target, bool) and 0 <= target < len(self.label_names):
            return target
        known = ", ".join(self.label_names)
        raise ValueError(f"{target!r} is not a class of this checkpoint. Use one of: predicted, {known}.")

    @contextmanager
    def private_model(self) -> Iterator[torch.nn.Module]:
        """Lend a copy of the model that only one caller holds at a time, for methods that set hooks or gradients.

        Hooks belong to the module, so on the shared model concurrent requests would see each other's activations.
        """
        with self.facts.private_lock:
            yield _private_copy(self)

    def _like(self) -> torch.Tensor:
        """Return a tensor of the device and the floating-point type that the model computes with."""
        tensors = chain(self.model.parameters(), self.model.buffers())
        return next((tensor for tensor in tensors if tensor.is_floating_point()), torch.empty(0))


def _warnings(codes: list[str]) -> tuple[PredictionWarning, ...]:
    return tuple(PredictionWarning(code, MESSAGES[code]) for code in codes)


def model_fact(compute: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a function of a classifier and hashable arguments: it is computed once per model, size and device.

    `functools.lru_cache` would keep classifiers alive that nobody uses any more.
    """

    @functools.wraps(compute)
    def fact(classifier: Classifier, *arguments: Hashable) -> Any:
        like = classifier._like()
        key = (compute, *classifier.preprocessing.size, like.device, like.dtype, *arguments)
        with _without_autocast(like.device.type):
            return classifier.facts.get(key, lambda: compute(classifier, *arguments))

    return fact


def _without_autocast(device_type: str) -> AbstractContextManager:
    """Return a context in which facts are as exact as the model's weights, whatever precision the caller is in."""
    available = torch.amp.is_autocast_available(device_type)
    return torch.autocast(device_type, enabled=False) if available else nullcontext()


@model_fact
def _private_copy(classifier: Classifier) -> torch.nn.Module:
    return copy.deepcopy(classifier.model).requires_grad_(True)


@model_fact
def linear_head(classifier: Classifier) -> torch.nn.Linear | None:
    """Return the classifier layer if logits == linear(global average pooling), checked numerically; else None."""
    noise = torch.randn(2, 3, *classifier.preprocessing.size, generator=torch.Generator().manual_seed(0))
    return _linear_head(classifier.model, classifier.to_device(noise))
