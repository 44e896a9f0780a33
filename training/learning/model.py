"""What is trained: a timm model with its initial weights, and the teacher it may learn from."""

import json
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file

from brain_xai.checkpoint.catalog import load_checkpoint
from brain_xai.checkpoint.schema import CheckpointError
from training.data.sources import DataError
from training.data.splits import SplitIdentity, TrainingData
from training.learning.losses import Teacher
from training.learning.settings import TrainConfig


@dataclass(frozen=True)
class InitialWeights:
    """Where the initial weights came from: a sentence, and metrics.json of the run they are from, if there was one."""

    init_from: str
    earlier: dict | None = None


def build_model(settings: TrainConfig, data: TrainingData) -> tuple[torch.nn.Module, InitialWeights]:
    """Return a channels-last timm model and where its weights came from; raises `DataError`."""
    earlier = _earlier_run(settings.init_weights, data.identity)
    pretrained = settings.pretrained and settings.init_weights is None
    try:
        model = timm.create_model(
            settings.model,
            pretrained=pretrained,
            num_classes=len(data.scans.label_names),
            drop_rate=settings.drop_rate,
            **settings.timm_args,
        )
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        # timm and the Hub client raise many types; only a failed download has a remedy to name.
        if not pretrained:
            raise DataError(f"timm cannot build {settings.model}: {error}") from error
        raise DataError(
            f"The pretrained weights of {settings.model} could not be fetched ({type(error).__name__}: {error}). "
            "Start with --no-pretrained, or from a file with --init-weights FILE.safetensors."
        ) from error
    _check_sizes(model, settings)
    init_from = f"timm's pretrained weights of {settings.model}" if pretrained else "random weights"
    if settings.init_weights is not None:
        init_from = _load_what_fits(model, Path(settings.init_weights))
    return model.to(memory_format=torch.channels_last), InitialWeights(init_from, earlier)


def load_teacher(settings: TrainConfig, split: SplitIdentity) -> Teacher | None:
    """Return the teacher that the settings name, if any.

    Raises:
        DataError: if it cannot be loaded, was trained on another split, so that it may have seen the images that its
            student is measured on, or if only one of the two crops its images to the head.
    """
    checkpoint = settings.teacher
    if checkpoint is None:
        return None
    try:
        classifier = load_checkpoint(checkpoint)
    except CheckpointError as error:
        raise DataError(f"The teacher {checkpoint} cannot be loaded. {error}") from error
    if not classifier.metrics or SplitIdentity.of(classifier.metrics) != split:
        raise DataError(f"The teacher {checkpoint} was trained on another split: it may have seen the test images.")
    if classifier.preprocessing.frame != settings.frame:
        needed = "with" if classifier.preprocessing.frame else "without"
        raise DataError(f"The teacher {checkpoint} sees other parts of the images. Train its student {needed} --frame.")
    return Teacher(classifier)


def center_head(model: torch.nn.Module) -> None:
    """Subtract the mean over the classes from weights and bias of a linear head.

    Softmax is invariant to it. The map of one logit then shows only evidence that distinguishes its class from the
    others.
    """
    head = model.get_classifier()
    if isinstance(head, torch.nn.Linear):
        with torch.no_grad():
            head.weight -= head.weight.mean(dim=0)
            if head.bias is not None:
                head.bias -= head.bias.mean()


@torch.inference_mode()
def _check_sizes(model: torch.nn.Module, settings: TrainConfig) -> None:
    """Raise `DataError` if the model cannot see images of some size: many transformers are built for a single one."""
    model.eval()
    for size in sorted(set(settings.epoch_sizes)):
        try:
            model(torch.zeros(1, 3, size, size))
        except (AssertionError, RuntimeError, ValueError) as error:
            fitting = f"""--model-args '{{"img_size": {size}}}', or '{{"dynamic_img_size": true}}' for several sizes"""
            raise DataError(
                f"{settings.model} cannot see images of {size} pixels ({error}). Choose other --sizes. A transformer "
                f"can be built for them: {fitting}."
            ) from error
    model.train()


def _load_what_fits(model: torch.nn.Module, file: Path) -> str:
    if not file.is_file():
        raise DataError(f"There is no file {file} to start from.")
    own, given = model.state_dict(), load_file(file)
    fitting = {name: value for name, value in given.items() if name in own and own[name].shape == value.shape}
    if not fitting:
        raise DataError(f"Nothing in {file.name} fits this model. Is it for another architecture?")
    missing = [name for name in own if name not in fitting and not name.endswith("num_batches_tracked")]
    unused = [name for name in given if name not in fitting]
    model.load_state_dict(fitting, strict=False)
    return (
        f"{file.name}: {len(fitting)} tensors loaded; "
        f"random: {', '.join(missing) or 'none'}; not used: {', '.join(unused) or 'none'}"
    )


def _earlier_run(init_weights: str | None, split: SplitIdentity) -> dict | None:
    """Return the metrics.json beside the initial weights, None if they are not from this training script.

    Raises `DataError` if that run was on another split, unless this one is on the official split, whose leak is known:
    the weights may have seen the test images.
    """
    metrics = Path(init_weights).with_name("metrics.json") if init_weights else None
    if metrics is None or not metrics.is_file():
        return None
    earlier = json.loads(metrics.read_text(encoding="utf-8"))
    if SplitIdentity.of(earlier) != split and split.split != "official":
        raise DataError(f"{init_weights} was trained on another split: it may have seen the test images.")
    return earlier
