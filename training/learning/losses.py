"""What training minimizes: cross-entropy, distillation from a teacher, and evidence outside the tumor boxes."""

import copy

import torch
import torch.nn.functional as F

from brain_xai.classifier import CheckpointInfo, Classifier
from brain_xai.methods.cam import resample_to_image
from brain_xai.methods.target_layer import target_layer
from brain_xai.preprocess import Preprocessing
from training.data.sources import DataError


class BoxLoss:
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
        evidence, inside = resample_to_image(cells[:, None], self._layer, masks.shape[2:]), masks[boxed]
        # In multiples of its mean: else a map of nothing would be the best of all.
        evidence = evidence / evidence.abs().mean(dim=(2, 3), keepdim=True).clamp(min=1e-6)
        within = (F.softplus(evidence) * inside).flatten(1).sum(dim=1)
        beyond = (evidence.abs() * (1 - inside)).flatten(1).sum(dim=1)
        return -(within / (within + beyond)).clamp(min=1e-6).log().mean()


class Loss(torch.nn.Module):
    """Cross-entropy with class weights and label smoothing, mixed with the teacher's view of the same picture.

    The teacher's share is the Kullback-Leibler divergence at temperature 2 (Hinton et al. 2015, arXiv 1503.02531).
    `place` adds, times `place_weight`, what evidence from outside the tumour boxes costs.
    """

    def __init__(
        self,
        class_weights: torch.Tensor | None,
        label_smoothing: float,
        teacher: torch.nn.Module | None,
        teacher_share: float,
        place: BoxLoss | None = None,
        place_weight: float = 0.0,
    ):
        super().__init__()
        self.place, self.place_weight = place, place_weight
        self.register_buffer("class_weights", class_weights)
        self.label_smoothing = label_smoothing
        self.teacher, self.teacher_share = teacher, teacher_share

    def forward(
        self, logits: torch.Tensor, labels: torch.Tensor, pixel_values: torch.Tensor, masks: torch.Tensor
    ) -> torch.Tensor:
        loss = F.cross_entropy(logits.float(), labels, weight=self.class_weights, label_smoothing=self.label_smoothing)
        if self.teacher is not None:
            with torch.no_grad():
                expected = (self.teacher(pixel_values).float() / 2).softmax(dim=1)
            divergence = F.kl_div((logits.float() / 2).log_softmax(dim=1), expected, reduction="batchmean") * 4
            loss = (1 - self.teacher_share) * loss + self.teacher_share * divergence
        if self.place is not None:
            loss = loss + self.place_weight * self.place(labels, masks)
        return loss
