"""What a checkpoint must be like: all that is strange is refused with a sentence, before it takes memory or time."""

import inspect
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open

WEIGHTS_NAME = "model.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
# The largest weights that a small server can hold beside its page, in several copies; ResNet-152 has 241 MB.
MAX_WEIGHTS_BYTES = 500_000_000
MAX_JSON_BYTES = 5_000_000
MAX_LABELS = 1000
MAX_LABEL_LENGTH = 100
SIDES = range(32, 1025)
# Numbers of an architecture, such as channels or blocks, are smaller by far.
MAX_MODEL_ARGUMENT = 4096
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
# What `timm.create_model` itself understands could fetch other weights, or open a pickle.
FORBIDDEN_MODEL_ARGS = {*inspect.signature(timm.create_model).parameters, "num_classes", "in_chans"}
SHOWN_METRICS = ("accuracy", "macro_f1", "tumor_miss_rate")


class CheckpointError(ValueError):
    """A checkpoint cannot be loaded; the message says why and what to do."""


def read_json(file: Path) -> dict:
    """Return the object in a JSON file; raises `CheckpointError` for anything else, NaN and Infinity too."""
    try:
        if file.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"it has more than {MAX_JSON_BYTES / 1e6:.0f} MB")
        content = json.loads(file.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
        if not isinstance(content, dict):
            raise ValueError("it is not an object")
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file.name} cannot be read as JSON: {error}.") from error
    return content


def check_config(config: Mapping[str, Any]) -> None:
    """Refuse a config.json that is not one of a small image classifier; raises `CheckpointError`."""
    architecture = config.get("architecture")
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise CheckpointError(f"config.json names the architecture {_short(architecture)}, which timm does not know.")
    labels = config.get("label_names")
    if not (isinstance(labels, list) and labels):
        raise CheckpointError("config.json has no label_names, so nobody could tell what the classes mean.")
    if not all(isinstance(label, str) and 0 < len(label) <= MAX_LABEL_LENGTH for label in labels):
        raise CheckpointError(f"label_names in config.json are not names of at most {MAX_LABEL_LENGTH} letters.")
    if not 2 <= len(labels) <= MAX_LABELS or len(set(labels)) < len(labels):
        raise CheckpointError(f"config.json must name between 2 and {MAX_LABELS} different classes.")
    if config.get("num_classes", len(labels)) != len(labels):
        raise CheckpointError(
            f"config.json names {len(labels)} classes, but says that there are {_short(config['num_classes'])}."
        )
    _check_model_args(config.get("model_args"))
    _check_preprocessing(config.get("pretrained_cfg"))
    _check_own_section(config.get("brain_xai", {}))


def check_weights(file: Path, config: Mapping[str, Any]) -> None:
    """Refuse weights that are too large or not those of the model in `config`, from their header alone.

    Raises `CheckpointError`.
    """
    check_size(file.stat().st_size)
    try:
        with safe_open(file, framework="pt") as opened:
            given = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file.name} is damaged or cut off: {error}.") from error
    architecture, classes = config["architecture"], len(config["label_names"])
    try:
        with torch.device("meta"):  # nothing is allocated, however large the model would be
            model = timm.create_model(architecture, num_classes=classes, **(config.get("model_args") or {}))
    except Exception as error:  # timm passes on whatever strange arguments make an architecture raise
        raise CheckpointError(f"timm cannot build {architecture} as config.json describes it: {error}.") from error
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    for name in dict.fromkeys([*expected, *given]):
        if expected.get(name) != given.get(name):
            raise CheckpointError(
                f"The weights are not those of {architecture} with {classes} classes: {name} is "
                f"{given.get(name, 'missing')} in the file and {expected.get(name, 'unknown')} in the model."
            )


def check_finite(state: Mapping[str, torch.Tensor]) -> None:
    """Refuse weights that hold NaN or infinity; raises `CheckpointError`."""
    for name, value in state.items():
        if value.is_floating_point() and not value.float().isfinite().all():
            raise CheckpointError(f"The weights hold values that are not numbers (in {name}).")


def check_metrics(metrics: Mapping[str, Any]) -> None:
    """Refuse a metrics.json whose numbers could not be put into words; raises `CheckpointError`."""
    if not isinstance(metrics.get("split", ""), str):
        raise CheckpointError("metrics.json names no split.")
    for split in ("validation", "test"):
        measured = metrics.get(split, {})
        entries = [measured.get(name) for name in SHOWN_METRICS] if isinstance(measured, dict) else [measured]
        if not all(entry is None or _is_interval(entry) for entry in entries):
            raise CheckpointError(f"metrics.json does not hold what was measured on the {split} images.")
        if entries[0] is not None and not isinstance(measured.get("n"), int) and split == "test":
            raise CheckpointError("metrics.json does not say on how many test images it was measured.")


def check_explanations(explanations: Mapping[str, Any]) -> None:
    """Refuse an explanations.json whose numbers could not be put into words; raises `CheckpointError`."""
    methods, weights = (explanations.get(key, {}) for key in ("methods", "consensus_weights"))
    are_objects = all(isinstance(part, dict) for part in (methods, weights)) and all(
        isinstance(measured, dict) for measured in methods.values()
    )
    if not are_objects or not _are_numbers([*weights.values()], len(weights)):
        raise CheckpointError("explanations.json does not hold what was measured of the maps.")
    for method, measured in methods.items():
        pointing = measured.get("pointing_game")
        if pointing is not None and not (_is_interval(pointing) and isinstance(pointing.get("n"), int)):
            raise CheckpointError(f"explanations.json does not hold what was measured of {_short(method)}.")


def check_size(size: int) -> None:
    """Refuse weights of too many bytes; raises `CheckpointError`."""
    if size > MAX_WEIGHTS_BYTES:
        raise CheckpointError(
            f"The weights have {size / 1e6:,.0f} MB; at most {MAX_WEIGHTS_BYTES / 1e6:.0f} MB are loaded."
        )


def _check_model_args(arguments: Any) -> None:
    if arguments is None:
        return
    if not isinstance(arguments, dict):
        raise CheckpointError("model_args in config.json is not an object.")
    forbidden = sorted(FORBIDDEN_MODEL_ARGS & arguments.keys())
    if forbidden:
        raise CheckpointError(f"model_args in config.json must not hold {', '.join(forbidden)}.")
    for name, value in arguments.items():
        for single in value if isinstance(value, list) and len(value) <= 16 else [value]:
            is_small = isinstance(single, (int, float)) and abs(single) <= MAX_MODEL_ARGUMENT
            if not (is_small or single is None or (isinstance(single, str) and len(single) <= MAX_LABEL_LENGTH)):
                raise CheckpointError(f"model_args in config.json holds {name} = {_short(value)}, which is no setting.")


def _check_preprocessing(pretrained: Any) -> None:
    if not isinstance(pretrained, dict):
        raise CheckpointError("config.json has no pretrained_cfg, so nobody could tell how pictures are prepared.")
    size = pretrained.get("input_size")
    if not (_are_numbers(size, 3) and size[0] == 3 and all(side in SIDES for side in size[1:])):
        raise CheckpointError(
            f"input_size in config.json is {_short(size)}; it must be [3, height, width], "
            f"{SIDES.start} to {SIDES.stop - 1} pixels each."
        )
    for name in ("mean", "std"):
        if not _are_numbers(pretrained.get(name), 3):
            raise CheckpointError(f"{name} in config.json is {_short(pretrained.get(name))}; it must be three numbers.")
    if min(pretrained["std"]) <= 0:
        raise CheckpointError("std in config.json must be three numbers above zero.")
    if pretrained.get("interpolation") not in INTERPOLATIONS:
        raise CheckpointError(f"interpolation in config.json must be one of: {', '.join(INTERPOLATIONS)}.")


def _check_own_section(own: Any) -> None:
    if not isinstance(own, dict):
        raise CheckpointError("brain_xai in config.json is not an object.")
    scales = own.get("attribution_scale", {})
    positive = [own.get("temperature", 1.0), *(scales.values() if isinstance(scales, dict) else [None])]
    if not (_are_numbers(positive, len(positive)) and min(positive) > 0):
        raise CheckpointError("temperature and attribution_scale in config.json must be numbers above zero.")


def _are_numbers(values: Any, count: int) -> bool:
    if not isinstance(values, Sequence) or len(values) != count:
        return False
    return all(type(value) in (int, float) and math.isfinite(value) for value in values)


def _is_interval(entry: Any) -> bool:
    return isinstance(entry, dict) and _are_numbers([entry.get(key) for key in ("value", "low", "high")], 3)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _short(value: Any) -> str:
    return f"{str(value)[:60]!r}"
