"""The one checkpoint format, writer and reader side by side: a folder that timm, transformers and we can load."""

import hashlib
import json
import os
from functools import lru_cache
from pathlib import Path

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from brain_xai.classifier import CheckpointInfo, Classifier
from brain_xai.preprocess import Preprocessing

BUNDLED = Path(__file__).parent / "bundled"
WEIGHTS = "model.safetensors"
# All that is ever fetched from the Hub: never a pickle, never code.
HUB_FILES = ["config.json", WEIGHTS, "metrics.json", "README.md", "examples/*"]


class CheckpointError(ValueError):
    """A checkpoint cannot be loaded; the message says why and what to do."""


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
    folders.sort(key=lambda folder: -_read_json(folder / "metrics.json")["validation"]["macro_f1"]["value"])
    return [f"bundled/{folder.name}" for folder in folders]


def allowed_checkpoints() -> list[str]:
    """Return the ids a visitor may choose from, the default first: `BRAIN_XAI_CHECKPOINTS`, else the bundled ones."""
    named = [name.strip() for name in os.environ.get("BRAIN_XAI_CHECKPOINTS", "").split(",")]
    return [name for name in named if name] or bundled_checkpoints()


def load_checkpoint(checkpoint: str | os.PathLike = "default") -> Classifier:
    """Load a `Classifier`.

    `checkpoint` is "default" (the first allowed one), "bundled/<name>", a folder, or "org/repo@revision" on the Hub
    (the part from @ on may be left out). A local folder's revision is the hash of its weights. The same weights are
    loaded once and shared. Raises `CheckpointError`.
    """
    name = os.fspath(checkpoint)
    if name == "default":
        name = next(iter(allowed_checkpoints()), "")
        if not name:
            raise CheckpointError("No checkpoint is bundled. Name one: a folder, or org/repo on the Hub.")
    if name.startswith("bundled/"):
        folder, revision = BUNDLED / Path(name).name, None
        if not (folder / WEIGHTS).is_file():
            raise CheckpointError(f"There is no {name}. Bundled are: {', '.join(bundled_checkpoints())}.")
    elif Path(name).is_dir():
        folder, revision = Path(name), None
    else:
        folder, revision = _download(name)
    return _load(name, folder, revision or _hash(folder / WEIGHTS))


def _download(name: str) -> tuple[Path, str]:
    from huggingface_hub import snapshot_download  # takes a third of a second; the bundled checkpoints do without

    repo_id, _, revision = name.partition("@")
    try:
        folder = Path(snapshot_download(repo_id, revision=revision or None, allow_patterns=HUB_FILES))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{name} is neither a folder here nor a checkpoint that can be fetched from the Hub "
            f"({type(error).__name__}). Check the spelling and the connection."
        ) from error
    return folder, folder.name


@lru_cache(maxsize=4)
def _load(name: str, folder: Path, revision: str) -> Classifier:
    for needed in ("config.json", WEIGHTS):
        if not (folder / needed).is_file():
            raise CheckpointError(f"{name} has no {needed}, so it is not a checkpoint of this project.")
    config = _read_json(folder / "config.json")
    try:
        label_names = tuple(config["label_names"])
        pretrained = config["pretrained_cfg"]
        model = timm.create_model(
            config["architecture"], num_classes=len(label_names), **(config.get("model_args") or {})
        )
        # Files may store half precision; loading copies them into float32 parameters.
        model.load_state_dict(load_file(folder / WEIGHTS))
    except (KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{name} cannot be loaded as a timm model: {error}") from error
    own = config.get("brain_xai", {})
    metrics = folder / "metrics.json"
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
        metrics=_read_json(metrics) if metrics.is_file() else {},
    )


def _hash(file: Path) -> str:
    if not file.is_file():
        raise CheckpointError(f"{file.parent} has no {file.name}, so it is not a checkpoint of this project.")
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]


def _read_json(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8"))
