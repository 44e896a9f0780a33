"""Tumour boxes as teachers of place: the evidence for a scan's class should come from inside its box."""

import copy
import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from brain_xai.classifier import CheckpointInfo, Classifier
from brain_xai.explain.cam import spread
from brain_xai.explain.layers import target_layer
from brain_xai.preprocess import Preprocessing
from training.data import DataError

COLUMNS = ("x_min", "y_min", "x_max", "y_max")


def load_boxes(file: str | Path, files: Sequence[str]) -> np.ndarray:
    """Return the boxes of the pictures `files`, float32 [n, 4], NaN where a picture has none; raises `DataError`.

    `file` is a CSV with the columns file, x_min, y_min, x_max, y_max; a box is given in fractions of width and height.
    """
    try:
        with Path(file).open(encoding="utf-8", newline="") as lines:
            known = {row["file"]: [float(row[column]) for column in COLUMNS] for row in csv.DictReader(lines)}
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{file} is no CSV with the columns file, {', '.join(COLUMNS)}: {error}") from error
    boxes = np.array([known.get(name, [np.nan] * 4) for name in files], dtype=np.float32).reshape(-1, 4)
    if np.isnan(boxes).all():
        raise DataError(f"None of the pictures is named in {file}. Names are relative to the data folder.")
    return boxes


def box_masks(boxes: torch.Tensor, size: int) -> torch.Tensor:
    """Draw boxes [N, 4] as masks, float32 [N, 1, size, size]: the share of each pixel inside; 0 where there is none."""
    edges = torch.arange(size + 1, device=boxes.device) / size
    x_min, y_min, x_max, y_max = boxes.nan_to_num(0).T[:, :, None]

    def covered(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        return (torch.minimum(high, edges[1:]) - torch.maximum(low, edges[:-1])).clamp(min=0) * size

    return (covered(y_min, y_max)[:, :, None] * covered(x_min, x_max)[:, None, :])[:, None]


class PlaceLoss:
    """Punishes evidence for a scan's class that does not come from inside its tumour box.

    It is the negative logarithm of the share that the evidence for the class inside the box (softplus, so that none is
    lost) has in this and all evidence, for or against, outside; on the class-activation map as it is drawn, however
    strong that is, and 0 for a batch without boxes. Where the head is an average and a linear layer, that map is all
    the logit is made of, so the answer itself comes to rest on the tumour. What a cell adds to all logits alike changes
    no probability and is not counted: else a model would hide evidence behind it.
    Related: Ross et al. 2017, arXiv 1703.03717 (right for the right reasons); Li et al. 2018, arXiv 1802.10171.
    """

    def __init__(self, model: torch.nn.Module, preprocessing: Preprocessing):
        """Listen to the unwrapped `model` that is trained; raises `DataError` where its head is another one."""
        classes = model.num_classes
        info = CheckpointInfo("training", "0", model.pretrained_cfg["architecture"])
        still = copy.deepcopy(model).eval()
        self._layer = target_layer(Classifier(still, tuple(map(str, range(classes))), preprocessing, info))
        self._head = model.get_classifier()
        if self._layer is None or not isinstance(self._head, torch.nn.Linear):
            raise DataError(f"--boxes needs an average and a linear layer as head; {info.architecture} has others.")
        model.get_submodule(self._layer.name).register_forward_hook(self._keep)

    def _keep(self, module: torch.nn.Module, inputs: tuple, features: torch.Tensor) -> None:
        self._features = features

    def __call__(self, labels: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """Return the loss of the batch that went through the model last; `masks` [N, 1, H, W] are its boxes."""
        boxed = masks.flatten(1).sum(dim=1) > 1  # one pixel at least is left after turning and shifting
        features, self._features = self._features.float(), None
        if not boxed.any():
            return features.new_zeros(())
        weight = self._head.weight.float()
        weight = (weight - weight.mean(dim=0))[labels[boxed]]
        cells = torch.einsum("nchw,nc->nhw", features[boxed], weight)
        evidence, inside = spread(cells[:, None], self._layer, masks.shape[2:]), masks[boxed]
        # In multiples of its mean: else a map of nothing would be the best of all.
        evidence = evidence / evidence.abs().mean(dim=(2, 3), keepdim=True).clamp(min=1e-6)
        within = (F.softplus(evidence) * inside).flatten(1).sum(dim=1)
        beyond = (evidence.abs() * (1 - inside)).flatten(1).sum(dim=1)
        return -(within / (within + beyond)).clamp(min=1e-6).log().mean()
