"""A model with its labels: an image goes in, calibrated probabilities come out."""

import copy
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import torch
from PIL import Image

from brain_xai.preprocess import ModelInput, Preprocessing, prepare


@dataclass(frozen=True)
class CheckpointInfo:
    """Which weights answered: `id` as asked for, `revision` (commit sha, or hash of the weights), `architecture`."""

    id: str
    revision: str
    architecture: str


@dataclass(frozen=True)
class PredictionWarning:
    """Something a reader of the answer must know: a `code` for programs, a `message` for people."""

    code: str
    message: str


@dataclass(frozen=True)
class Prediction:
    """The answer for one image: `probabilities` {label: p}, which sum to 1, the likeliest `label`, and `warnings`."""

    probabilities: dict[str, float]
    label: str
    warnings: tuple[PredictionWarning, ...]
    checkpoint: CheckpointInfo


@dataclass(frozen=True, eq=False)
class Classifier:
    """A timm model in eval mode with what is needed to use it.

    `temperature` (> 0) divides the logits before the softmax, so that the probabilities are calibrated.
    `attribution_scale` {method: logits} is the evidence drawn in full colour, measured on validation scans.
    `metrics` is the content of the checkpoint's metrics.json, {} where there is none, and `explanations` that of its
    explanations.json, how good its maps are.
    `notices` are what every answer must say about the checkpoint itself, such as: the Hub could not be reached.
    """

    model: torch.nn.Module
    label_names: tuple[str, ...]
    preprocessing: Preprocessing
    info: CheckpointInfo
    temperature: float = 1.0
    attribution_scale: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping = field(default_factory=dict)
    explanations: Mapping = field(default_factory=dict)
    notices: tuple[PredictionWarning, ...] = ()
    _private_lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def prepare(self, image: Image.Image | str | os.PathLike) -> ModelInput:
        """Return the image in the form the model sees; raises `UnreadableImage`."""
        return prepare(image, self.preprocessing)

    @torch.inference_mode()
    def logits(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return float32 logits [N, classes] for normalised `pixel_values` float32 [N, 3, H, W]."""
        return self.model(pixel_values).float()

    def predict(self, image: Image.Image | str | os.PathLike) -> Prediction:
        """Classify one image (a PIL image or a path); raises `UnreadableImage`."""
        return self.prediction(self.logits(self.prepare(image).pixel_values)[0])

    def prediction(self, logits: torch.Tensor) -> Prediction:
        """Turn the logits [classes] of one image into a `Prediction`."""
        probabilities = torch.softmax(logits.double() / self.temperature, dim=0).tolist()
        by_label = dict(zip(self.label_names, probabilities, strict=True))
        label = max(by_label, key=by_label.__getitem__)
        return Prediction(by_label, label, self.notices, self.info)

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

        Hooks are global to a module: on the model that predicts, one visitor's would answer another's question.
        """
        with self._private_lock:
            yield self._private_model

    @cached_property
    def _private_model(self) -> torch.nn.Module:
        return copy.deepcopy(self.model).requires_grad_(True)
