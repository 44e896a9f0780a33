"""The one checkpoint format: a folder that timm, transformers and brain_xai can load."""

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
    check_weights,
    read_json,
)
from brain_xai.classifier import CheckpointInfo, Classifier
from brain_xai.framing import FRAME_VERSION
from brain_xai.looks import DESCRIBED, MEASURED
from brain_xai.preprocess import Preprocessing
from brain_xai.trust import DISTANCES, Trust


def save_checkpoint(
    folder: Path,
    model: torch.nn.Module,
    *,
    label_names: tuple[str, ...],
    preprocessing: Preprocessing,
    model_args: dict | None = None,
    brain_xai: dict,
) -> None:
    """Write config.json and model.safetensors in timm's format.

    Args:
        folder: Where to write; created if missing.
        model: A timm model; it is not changed.
        label_names: The labels, in the order of the logits.
        preprocessing: The size and normalization that the model was trained with.
        model_args: What `timm.create_model` needs besides the name, such as `{"output_stride": 16}`; never
            `num_classes`, which transformers passes itself.
        brain_xai: This project's own section of config.json. Its `stored_as`, "float32" if missing, names the type of
            the stored floating-point weights; every loader computes in float32.
    """
    folder.mkdir(parents=True, exist_ok=True)
    dtype = getattr(torch, brain_xai.get("stored_as", "float32"))
    save_file({name: _to_storage(value, dtype) for name, value in model.state_dict().items()}, folder / WEIGHTS_NAME)
    height, width = preprocessing.size
    config = {
        "architecture": model.pretrained_cfg["architecture"],
        "num_classes": len(label_names),
        "num_features": model.num_features,
        "label_names": list(label_names),
        "model_args": model_args or {},
        "dtype": "float32",  # otherwise transformers computes in the type of the stored weights
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
        "brain_xai": brain_xai | ({"frame": FRAME_VERSION} if preprocessing.frame else {}),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _to_storage(value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    value = value.detach().cpu().contiguous()  # safetensors rejects channels-last weights
    return value.to(dtype) if value.is_floating_point() else value


def read_checkpoint(
    name: str, folder: Path, revision: str | None = None, device: torch.device | str = "cpu"
) -> Classifier:
    """Read the checkpoint folder `folder` and put its model on a device.

    Args:
        name: The id that the classifier reports.
        folder: A folder written by `save_checkpoint`, with metrics.json and explanations.json if there are any.
        revision: The commit that the folder holds; None stands for a hash of the weights.
        device: Where the model runs.

    Raises:
        CheckpointError: The folder is not a checkpoint of this project; the message says why.
    """
    for needed in ("config.json", WEIGHTS_NAME):
        if not (folder / needed).is_file():
            raise CheckpointError(f"It has no {needed}, so it is not a checkpoint of this project.")
    config = read_json(folder / "config.json")
    check_config(config)
    check_weights(folder / WEIGHTS_NAME, config)
    metrics = _read_if_present(folder / "metrics.json")
    check_metrics(metrics)
    own, pretrained = config.get("brain_xai", {}), config["pretrained_cfg"]
    model = _read_model(folder, config)
    return Classifier(
        model=model.to(device, memory_format=torch.channels_last),
        label_names=tuple(config["label_names"]),
        preprocessing=Preprocessing(
            size=tuple(pretrained["input_size"][1:]),
            mean=tuple(pretrained["mean"]),
            std=tuple(pretrained["std"]),
            interpolation=pretrained["interpolation"],
            frame="frame" in own,
        ),
        info=CheckpointInfo(name, revision or weights_hash(folder / WEIGHTS_NAME), config["architecture"]),
        temperature=own.get("temperature", 1.0),
        attribution_scale=own.get("attribution_scale", {}),
        metrics=metrics,
        explanations=read_explanations(folder),
        trust=_read_trust(own, model),
        no_tumor_label=_no_tumor_label(config),
    )


def _no_tumor_label(config: dict) -> str | None:
    """Return the label of the healthy class as the run recorded it, None if it names none."""
    training = config.get("brain_xai", {}).get("training")
    label = training.get("no_tumor_label") if isinstance(training, dict) else None
    return label if label in config["label_names"] else None


def _read_trust(own: dict, model: torch.nn.Module) -> Trust | None:
    """Return what tells unusual images apart, None if it was not fitted; raises `CheckpointError`."""
    if "trust" not in own:
        return None
    try:
        trust = Trust.from_json(own["trust"])
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    expected = getattr(model, "head_hidden_size", model.num_features) + DESCRIBED
    if len(trust.mean) != expected:
        raise CheckpointError(f"trust in config.json is for {len(trust.mean)} features; this model has {expected}.")
    inputs = len(trust.spread) + DISTANCES + MEASURED
    if trust.gate is not None and len(trust.gate.mean) != inputs:
        raise CheckpointError(f"The gate in config.json is for {len(trust.gate.mean)} numbers; there are {inputs}.")
    return trust


def read_explanations(folder: Path) -> dict:
    """Return the content of explanations.json; {} without one, or if it was measured with other weights."""
    content = _read_if_present(folder / "explanations.json")
    check_explanations(content)
    measured = content.get("checkpoint")
    belongs = isinstance(measured, dict) and measured.get("revision") == weights_hash(folder / WEIGHTS_NAME)
    return content if belongs else {}


def weights_hash(file: Path) -> str:
    """Return the revision of a local checkpoint: the first 12 digits of the SHA-256 of its weights."""
    if not file.is_file():
        raise CheckpointError(f"{file.parent} has no {file.name}, so it is not a checkpoint of this project.")
    return sha256_of(file)[:12]


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file's content, 64 hexadecimal digits."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _read_model(folder: Path, config: dict) -> torch.nn.Module:
    arguments = config.get("model_args") or {}
    model = timm.create_model(config["architecture"], num_classes=len(config["label_names"]), **arguments)
    # Files may store half precision; loading copies them into float32 parameters.
    model.load_state_dict(load_file(folder / WEIGHTS_NAME))
    check_finite(model.state_dict())
    return model.eval().requires_grad_(False)


def _read_if_present(file: Path) -> dict:
    return read_json(file) if file.is_file() else {}
