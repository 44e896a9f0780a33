"""What training minimizes: cross-entropy, distillation from a teacher, and evidence outside the tumor boxes."""

import copy

import torch
import torch.nn.functional as F

from brain_xai.classifier import CheckpointInfo, Classifier
from brain_xai.methods.cam import resample_to_image
from brain_xai.methods.target_layer import target_layer
from brain_xai.preprocess import Preprocessing
from training.data.loader import Normalize
from training.data.sources import DataError
from training.learning.settings import TrainConfig


class BoxLoss:
    """Penalizes evidence for an image's class that comes from outside its tumor box.

    With the class-activation map a as it is drawn, in multiples of its mean strength:
    loss = -log(sum_inside softplus(a) / (sum_inside softplus(a) + sum_outside |a|)), averaged over the images with a
    box. Softplus keeps a gradient where evidence inside the box is negative; dividing by the mean makes the loss
    independent of the map's strength, because otherwise an empty map would be optimal. If the head is global average
    pooling and a linear layer, the map is all that the logit consists of.
    The mean over the classes is subtracted from the head's weights: evidence that is equal for all classes changes no
    probability, and a model could hide evidence in it.

    Related: Ross et al. 2017, arXiv 1703.03717 (right for the right reasons); Li et al. 2018, arXiv 1802.10171.
    """

    def __init__(self, model: torch.nn.Module, preprocessing: Preprocessing):
        """Hook the unwrapped `model` that is trained; raises `DataError` if it has another kind of head."""
        info = CheckpointInfo("training", "0", model.pretrained_cfg["architecture"])
        # The layer is measured on a copy on the CPU, wherever and in whatever mode the model is.
        probe = copy.deepcopy(model).cpu().eval()
        self._layer = target_layer(Classifier(probe, tuple(map(str, range(model.num_classes))), preprocessing, info))
        self._head = model.get_classifier()
        if self._layer is None or not isinstance(self._head, torch.nn.Linear):
            raise DataError(f"--boxes needs global average pooling and a linear layer; {info.architecture} has others.")
        self._hook = model.get_submodule(self._layer.name).register_forward_hook(self._keep)

    def remove_hook(self) -> None:
        """Leave the model as it was; the loss cannot be used any more."""
        self._hook.remove()

    def _keep(self, module: torch.nn.Module, inputs: tuple, features: torch.Tensor) -> None:
        self._features = features

    def __call__(self, labels: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """Return the loss of the last batch that the model was called with.

        Args:
            labels: int64 [N].
            masks: float32 [N, 1, H, W], 1 inside the box; all 0 for images without a box.

        Returns:
            A scalar, at least 0; exactly 0 for a batch without boxes.
        """
        features, self._features = self._features.float(), None
        weight = self._head.weight.float()
        weight = (weight - weight.mean(dim=0))[labels]
        feature_map = torch.einsum("nchw,nc->nhw", features, weight)[:, None]
        evidence = resample_to_image(feature_map, self._layer, masks.shape[2:])
        evidence = evidence / evidence.abs().mean(dim=(2, 3), keepdim=True).clamp(min=1e-6)
        inside = (F.softplus(evidence) * masks).flatten(1).sum(dim=1)
        outside = (evidence.abs() * (1 - masks)).flatten(1).sum(dim=1)
        loss = -(inside / (inside + outside).clamp(min=1e-6)).clamp(min=1e-6).log()
        # A sum with weights, not a selection, which would wait for the GPU. Rotation and shift may leave less than one
        # pixel of a box: too little to point at.
        has_box = masks.flatten(1).sum(dim=1) > 1
        return (loss * has_box).sum() / has_box.sum().clamp(min=1)


def partly_known(
    logits: torch.Tensor, allowed: torch.Tensor, class_weights: torch.Tensor | None = None, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Return the negative logarithm of the probability of all classes that a label leaves open, averaged.

    With one class each it equals `F.cross_entropy` with the same weights and smoothing.

    Args:
        logits: float32 [N, classes].
        allowed: bool [N, classes], at least one each.
        class_weights: float32 [classes]; a label of several classes has their mean weight.
        label_smoothing: Share of the loss that wants all classes alike.
    """
    log_probabilities = logits.log_softmax(dim=1)
    if class_weights is None:
        class_weights = torch.ones_like(log_probabilities[0])
    weights = (allowed * class_weights).sum(dim=1) / allowed.sum(dim=1)
    surprise = -log_probabilities.masked_fill(~allowed, -torch.inf).logsumexp(dim=1)
    smooth = -(log_probabilities * class_weights).mean(dim=1)
    losses = (1 - label_smoothing) * weights * surprise + label_smoothing * smooth
    return losses.sum() / weights.sum()


class Teacher(torch.nn.Module):
    """The frozen model of a checkpoint, with its own image size and normalization."""

    def __init__(self, classifier: Classifier):
        super().__init__()
        self.model, self.size = classifier.model, classifier.preprocessing.size
        self.normalize = Normalize(classifier.preprocessing)

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits [N, classes] of gray images float32 [N, 1, S, S] in [0, 1] of any size."""
        if images.shape[2:] != self.size:
            images = F.interpolate(images, self.size, mode="bicubic", antialias=True).clamp(0, 1)
        return self.model(self.normalize(images)).float()


class Loss(torch.nn.Module):
    """Cross-entropy with class weights and label smoothing, distillation from a teacher, and the box loss.

    `label_sets` bool [ids, classes] are the classes that each label id leaves open; the first ids are the classes.
    Without it, label ids are classes.

    The teacher's term is the Kullback-Leibler divergence of the softened probabilities, times the squared temperature.

    Reference: Hinton et al. 2015, arXiv 1503.02531.
    """

    def __init__(
        self,
        settings: TrainConfig,
        class_weights: torch.Tensor | None = None,
        teacher: Teacher | None = None,
        box_loss: BoxLoss | None = None,
        label_sets: torch.Tensor | None = None,
    ):
        super().__init__()
        self.register_buffer("class_weights", class_weights)
        self.register_buffer("label_sets", label_sets)
        self.settings, self.teacher, self.box_loss = settings, teacher, box_loss

    def forward(
        self, logits: torch.Tensor, labels: torch.Tensor, images: torch.Tensor, masks: torch.Tensor
    ) -> torch.Tensor:
        """Return the scalar loss of a batch.

        Args:
            logits: [N, classes].
            labels: int64 [N] label ids.
            images: float32 [N, 1, S, S] in [0, 1], before normalization.
            masks: float32 [N, 0 or 1, S, S], the box masks if there are boxes.
        """
        logits, settings = logits.float(), self.settings
        loss = partly_known(
            logits, self._allowed(labels, logits.shape[1]), self.class_weights, settings.label_smoothing
        )
        if self.teacher is not None:
            temperature = settings.teacher_temperature
            expected = (self.teacher(images) / temperature).softmax(dim=1)
            divergence = F.kl_div((logits / temperature).log_softmax(dim=1), expected, reduction="batchmean")
            loss = (1 - settings.teacher_share) * loss + settings.teacher_share * temperature**2 * divergence
        if self.box_loss is not None:
            loss = loss + settings.box_weight * self.box_loss(
                labels.clamp(max=logits.shape[1] - 1), masks
            )  # boxed scans have one class
        return loss

    def is_right(self, answers: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return whether each answer [N] is a class that its label leaves open, bool [N]."""
        return answers == labels if self.label_sets is None else self.label_sets[labels, answers]

    def _allowed(self, labels: torch.Tensor, classes: int) -> torch.Tensor:
        return F.one_hot(labels, classes).bool() if self.label_sets is None else self.label_sets[labels]
