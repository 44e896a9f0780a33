"""The one checkpoint format, writer and reader side by side: a folder that timm, transformers and we can load."""

import hashlib
import json
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file, save_file

from brain_xai.checkpoint.schema import (
    WEIGHTS_NAME,
    CheckpointError,
    check_config,
    check_explanations,
    check_finite,
    check_metrics,
    check_size,
    check_weights,
    read_json,
)
from brain_xai.classifier import CheckpointInfo, Classifier, PredictionWarning
from brain_xai.preprocess import Preprocessing


def save_checkpoint(
    folder: Path,
    model: torch.nn.Module,
    *,
    label_names: tuple[str, ...],
    preprocessing: Preprocessing,
    model_args: dict | None = None,
    brain_xai: dict,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write `config.json` and `model.safetensors` into `folder`, in timm's format.

    `model_args` are what `timm.create_model` needs beside the name (`{"output_stride": 16}`), never `num_classes`,
    which transformers passes itself. `brain_xai` is our own section of the config. `dtype` is that of the stored
    floating-point weights; every loader computes in float32.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: _to_storage(value, dtype) for name, value in model.state_dict().items()}, folder / WEIGHTS_NAME)
    height, width = preprocessing.size
    config = {
        "architecture": model.pretrained_cfg["architecture"],
        "num_classes": len(label_names),
        "num_features": model.num_features,
        "label_names": list(label_names),
        "model_args": model_args or {},
        "dtype": "float32",  # else transformers computes in the type of the stored weights
        "pretrained_cfg": {
            "input_size": [3, height, width],
            "fixed_input_size": False,
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
            "interpolation": preprocessing.interpolation,
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "num_classes": len(label_names),
            "first_conv": model.pretrained_cfg["first_conv"],
            "classifier": model.pretrained_cfg["classifier"],
        },
        "brain_xai": brain_xai,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _to_storage(value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    value = value.detach().cpu().contiguous()  # safetensors refuses channels-last weights
    return value.to(dtype) if value.is_floating_point() else value


def read_checkpoint(name: str, folder: Path, revision: str, notices: tuple[PredictionWarning, ...]) -> Classifier:
    for needed in ("config.json", WEIGHTS_NAME):
        if not (folder / needed).is_file():
            raise CheckpointError(f"It has no {needed}, so it is not a checkpoint of this project.")
    config = read_json(folder / "config.json")
    check_config(config)
    check_weights(folder / WEIGHTS_NAME, config)
    metrics = read_json(folder / "metrics.json") if (folder / "metrics.json").is_file() else {}
    check_metrics(metrics)
    label_names, pretrained, own = tuple(config["label_names"]), config["pretrained_cfg"], config.get("brain_xai", {})
    model = timm.create_model(config["architecture"], num_classes=len(label_names), **(config.get("model_args") or {}))
    # Files may store half precision; loading copies them into float32 parameters.
    model.load_state_dict(load_file(folder / WEIGHTS_NAME))
    check_finite(model.state_dict())
    return Classifier(
        model=model.eval().requires_grad_(False).to(memory_format=torch.channels_last),
        label_names=label_names,
        preprocessing=Preprocessing(
            size=tuple(pretrained["input_size"][1:]),
            mean=tuple(pretrained["mean"]),
            std=tuple(pretrained["std"]),
            interpolation=pretrained["interpolation"],
        ),
        info=CheckpointInfo(name, revision, config["architecture"]),
        temperature=own.get("temperature", 1.0),
        attribution_scale=own.get("attribution_scale", {}),
        metrics=metrics,
        explanations=read_explanations(folder),
        notices=notices,
    )


def read_explanations(folder: Path) -> dict:
    """Return the content of explanations.json, {} where there is none or it was measured with other weights."""
    file = folder / "explanations.json"
    content = read_json(file) if file.is_file() else {}
    check_explanations(content)
    measured = content.get("checkpoint")
    return (
        content
        if isinstance(measured, dict) and measured.get("revision") == weights_hash(folder / WEIGHTS_NAME)
        else {}
    )


def weights_hash(file: Path) -> str:
    if not file.is_file():
        raise CheckpointError(f"{file.parent} has no {file.name}, so it is not a checkpoint of this project.")
    check_size(file.stat().st_size)
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()[:12]
