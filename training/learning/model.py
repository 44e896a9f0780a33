"""What is trained: a timm model with its start, the teacher it may learn from, and the loss."""

import json
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file

from brain_xai.checkpoint.catalog import load_checkpoint
from training.data.sources import DataError
from training.data.splits import SplitIdentity


def build_model(
    name: str, classes: int, model_args: dict, drop_rate: float, pretrained: bool, init_weights: str | None
) -> tuple[torch.nn.Module, str]:
    """Return a channels-last timm model and a sentence that says what it started from; raises `DataError`."""
    pretrained = pretrained and init_weights is None
    try:
        model = timm.create_model(name, pretrained=pretrained, num_classes=classes, drop_rate=drop_rate, **model_args)
    except (OSError, RuntimeError, ValueError) as error:
        # timm and the Hub client raise many kinds; only a failed download has a way out to name.
        if not pretrained:
            raise DataError(f"timm cannot build {name}: {error}") from error
        raise DataError(
            f"The pretrained weights of {name} could not be fetched ({type(error).__name__}: {error}). "
            "Start with --no-pretrained, or from a file with --init-weights FILE.safetensors."
        ) from error
    start = f"timm's pretrained weights of {name}" if pretrained else "random weights"
    if init_weights is not None:
        start = _load_what_fits(model, Path(init_weights))
    return model.to(memory_format=torch.channels_last), start


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


def center_head(model: torch.nn.Module) -> None:
    """Take from a linear head what it adds to all logits alike, so that they sum to zero over the classes.

    No probability changes, for softmax does not see it; a map of one logit then shows only what tells this class from
    the others.
    """
    head = model.get_classifier()
    if isinstance(head, torch.nn.Linear):
        with torch.no_grad():
            head.weight -= head.weight.mean(dim=0)
            head.bias -= head.bias.mean()


def load_teacher(folder: str, split: SplitIdentity) -> torch.nn.Module:
    """Return the frozen model of a checkpoint of the same `split`; raises `DataError` for any other.

    A teacher of another split may have seen the pictures its pupil is measured on.
    """
    teacher = load_checkpoint(folder)
    if SplitIdentity.of(teacher.metrics) != split:
        raise DataError(f"The teacher {folder} was trained on another split: it may have seen the test pictures.")
    return teacher.model


def earlier_run(init_weights: str | None, split: SplitIdentity) -> dict | None:
    """Return the metrics.json beside the starting weights, None where they are not from a run of ours.

    Raises `DataError` where that run was on another split and this one is not just for comparison: it may have seen
    the test pictures.
    """
    metrics = Path(init_weights or "").with_name("metrics.json") if init_weights else None
    if metrics is None or not metrics.is_file():
        return None
    earlier = json.loads(metrics.read_text(encoding="utf-8"))
    if SplitIdentity.of(earlier) != split and split.split != "official":
        raise DataError(f"{init_weights} was trained on another split: it may have seen the test pictures.")
    return earlier
