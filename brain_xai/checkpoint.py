"""The one checkpoint format, writer and reader side by side: a folder that timm, transformers and we can load."""

import hashlib
import json
import os
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file, save_file

from brain_xai import hub
from brain_xai.checks import (
    WEIGHTS,
    CheckpointError,
    check_config,
    check_explanations,
    check_finite,
    check_metrics,
    check_size,
    check_weights,
    read_json,
)
from brain_xai.classifier import CheckpointInfo, Classifier, Notice
from brain_xai.preprocess import Preprocessing

BUNDLED = Path(__file__).parent / "bundled"


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
    save_file({name: _to_storage(value, dtype) for name, value in model.state_dict().items()}, folder / WEIGHTS)
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


def bundled_checkpoints() -> list[str]:
    """Return the ids of the checkpoints that come with the package, best macro-F1 on validation first."""
    folders = [folder for folder in sorted(BUNDLED.iterdir()) if (folder / WEIGHTS).is_file()]
    folders.sort(key=lambda folder: -read_json(folder / "metrics.json")["validation"]["macro_f1"]["value"])
    return [f"bundled/{folder.name}" for folder in folders]


def allowed_checkpoints() -> list[str]:
    """Return the ids a visitor may choose from, the default first: `BRAIN_XAI_CHECKPOINTS`, else the bundled ones."""
    named = [name.strip() for name in os.environ.get("BRAIN_XAI_CHECKPOINTS", "").split(",")]
    return [name for name in named if name] or bundled_checkpoints()


def checkpoint_folder(checkpoint: str) -> Path | None:
    """Return where a checkpoint lies on this disk, without asking the Hub; None where it was never fetched."""
    if checkpoint.startswith("bundled/"):
        return BUNDLED / Path(checkpoint).name
    if Path(checkpoint).is_dir():
        return Path(checkpoint)
    snapshot = hub.cached(checkpoint)
    return snapshot.folder if snapshot else None


def is_on_hub(checkpoint: str) -> bool:
    """Return whether an id means a repository on the Hub: neither a bundled checkpoint nor a folder."""
    return not checkpoint.startswith("bundled/") and not Path(checkpoint).is_dir()


def load_checkpoint(checkpoint: str | os.PathLike = "default") -> Classifier:
    """Load a `Classifier`.

    `checkpoint` is "default" (the first allowed one), "bundled/<name>", a folder, or "org/repo@revision" on the Hub
    (the part from @ on may be left out). A local folder's revision is the hash of its weights. The same weights are
    loaded once and shared. Where the Hub cannot be reached, what was fetched before answers, with a notice.
    Raises `CheckpointError`.
    """
    name = os.fspath(checkpoint)
    if name == "default":
        name = next(iter(allowed_checkpoints()), "")
        if not name:
            raise CheckpointError("No checkpoint is bundled. Name one: a folder, or org/repo on the Hub.")
    if is_on_hub(name):
        return load_snapshot(name, _pull_or_cached(name))
    folder = checkpoint_folder(name)
    if name.startswith("bundled/") and not (folder / WEIGHTS).is_file():
        raise CheckpointError(f"There is no {name}. Bundled are: {', '.join(bundled_checkpoints())}.")
    return _load(name, folder, _hash(folder / WEIGHTS), (), _written(folder))


def load_snapshot(name: str, snapshot: hub.Snapshot) -> Classifier:
    """Load the `Classifier` in a snapshot of the Hub's repository `name`; raises `CheckpointError`."""
    return _load(name, snapshot.folder, snapshot.revision, snapshot.notices, ())  # a commit never changes


def _pull_or_cached(name: str) -> hub.Snapshot:
    try:
        return hub.pull(name)
    except hub.HubUnreachable:
        earlier = hub.cached(name)
        if earlier is None:
            raise
        return replace(earlier, notices=(hub.unreachable_notice(name, earlier.revision),))


# Commit, notices and times are part of the key, so an answer never comes with those of another.
@lru_cache(maxsize=4)
def _load(name: str, folder: Path, revision: str, notices: tuple[Notice, ...], written: tuple[int, ...]) -> Classifier:
    try:
        return _read(name, folder, revision, notices)
    except CheckpointError as error:
        raise CheckpointError(f"{name} cannot be loaded. {error}") from error


def _read(name: str, folder: Path, revision: str, notices: tuple[Notice, ...]) -> Classifier:
    for needed in ("config.json", WEIGHTS):
        if not (folder / needed).is_file():
            raise CheckpointError(f"It has no {needed}, so it is not a checkpoint of this project.")
    config = read_json(folder / "config.json")
    check_config(config)
    check_weights(folder / WEIGHTS, config)
    metrics = read_json(folder / "metrics.json") if (folder / "metrics.json").is_file() else {}
    check_metrics(metrics)
    label_names, pretrained, own = tuple(config["label_names"]), config["pretrained_cfg"], config.get("brain_xai", {})
    model = timm.create_model(config["architecture"], num_classes=len(label_names), **(config.get("model_args") or {}))
    # Files may store half precision; loading copies them into float32 parameters.
    model.load_state_dict(load_file(folder / WEIGHTS))
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
        explanations=_read_explanations(folder),
        notices=notices,
    )


def _read_explanations(folder: Path) -> dict:
    """Return the content of explanations.json, {} where there is none or it was measured with other weights."""
    file = folder / "explanations.json"
    content = read_json(file) if file.is_file() else {}
    check_explanations(content)
    measured = content.get("checkpoint")
    return content if isinstance(measured, dict) and measured.get("revision") == _hash(folder / WEIGHTS) else {}


def _written(folder: Path) -> tuple[int, ...]:
    """Return when each JSON file of a folder was written: numbers may change while the weights do not."""
    return tuple(file.stat().st_mtime_ns for file in sorted(folder.glob("*.json")))


def _hash(file: Path) -> str:
    if not file.is_file():
        raise CheckpointError(f"{file.parent} has no {file.name}, so it is not a checkpoint of this project.")
    check_size(file.stat().st_size)
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()[:12]
