"""Validate a checkpoint before it is loaded. Every failed check raises `CheckpointError` with a sentence for users."""

import inspect
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open

import brain_xai.small_cnns  # noqa: F401  registers them with timm
from brain_xai.framing import FRAME_VERSION

WEIGHTS_NAME = "model.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
# A small server holds a page and several copies of a model in memory; ResNet-152 has 241 MB, VGG-19 559 MB.
MAX_WEIGHTS_BYTES = 600_000_000
MAX_JSON_BYTES = 5_000_000
MAX_LABELS = 1000
MAX_NAME_LENGTH = 100
SIDES = range(32, 1025)
# Numbers that describe an architecture, such as channels or blocks, are far smaller.
MAX_MODEL_ARGUMENT = 4096
MAX_MODEL_ARGUMENTS = 16
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
# Arguments of `timm.create_model` itself could download other weights or open a pickle.
FORBIDDEN_MODEL_ARGS = {*inspect.signature(timm.create_model).parameters, "num_classes", "in_chans"}
SHOWN_METRICS = ("accuracy", "macro_f1", "tumor_miss_rate")


class CheckpointError(ValueError):
    """A checkpoint cannot be loaded; the message says why and what to do."""


def read_json(file: Path) -> dict:
    """Return the object in a JSON file; raises `CheckpointError` for anything else, also for NaN and Infinity."""
    try:
        if file.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"it has more than {MAX_JSON_BYTES / 1e6:.0f} MB")
        content = json.loads(file.read_text(encoding="utf-8"), parse_constant=_reject_constant)
        if not isinstance(content, dict):
            raise ValueError("it is not an object")
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file.name} cannot be read as JSON: {error}.") from error
    return content


def check_config(config: Mapping[str, Any]) -> None:
    """Check that config.json describes a small image classifier; raises `CheckpointError`."""
    architecture = config.get("architecture")
    _require(
        isinstance(architecture, str) and timm.is_model(architecture),
        f"config.json names the architecture {_short(architecture)}, which timm does not know.",
    )
    _check_labels(config.get("label_names"), config.get("num_classes"))
    _check_model_args(config.get("model_args"))
    _check_preprocessing(config.get("pretrained_cfg"))
    _check_own_section(config.get("brain_xai", {}))


def check_weights(file: Path, config: Mapping[str, Any]) -> None:
    """Check size, names and shapes of the weights against the model that `config` describes, without loading them.

    Raises `CheckpointError`.
    """
    check_size(file.stat().st_size)
    try:
        with safe_open(file, framework="pt") as opened:
            given = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file.name} is damaged or incomplete: {error}.") from error
    architecture, classes = config["architecture"], len(config["label_names"])
    try:
        with torch.device("meta"):  # allocates nothing, however large the model would be
            model = timm.create_model(architecture, num_classes=classes, **(config.get("model_args") or {}))
    except Exception as error:  # architectures raise anything when they are given wrong arguments
        raise CheckpointError(f"timm cannot build {architecture} as config.json describes it: {error}.") from error
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    for name in dict.fromkeys([*expected, *given]):
        _require(
            expected.get(name) == given.get(name),
            f"The weights do not fit {architecture} with {classes} classes: {name} is {given.get(name, 'missing')} in "
            f"the file and {expected.get(name, 'unknown')} in the model.",
        )


def check_finite(state: Mapping[str, torch.Tensor]) -> None:
    """Check that no weight is NaN or infinite; raises `CheckpointError`."""
    for name, value in state.items():
        is_finite = not value.is_floating_point() or bool(value.float().isfinite().all())
        _require(is_finite, f"The weights contain values that are not numbers (in {name}).")


def check_metrics(metrics: Mapping[str, Any]) -> None:
    """Check the numbers of metrics.json that the app and the cards show; raises `CheckpointError`."""
    _require(isinstance(metrics.get("split", ""), str), "metrics.json names no split.")
    for split in ("validation", "test"):
        measured = metrics.get(split, {})
        entries = [measured.get(name) for name in SHOWN_METRICS] if isinstance(measured, dict) else [measured]
        _require(
            all(entry is None or _is_interval(entry) for entry in entries),
            f"metrics.json has no valid measurements of the {split} images.",
        )
        has_count = split != "test" or entries[0] is None or isinstance(measured.get("n"), int)
        _require(has_count, "metrics.json does not say how many test images were measured.")
    shortcuts = metrics.get("shortcuts", {})
    kinds = shortcuts.get("kinds", {}) if isinstance(shortcuts, dict) else None
    _require(
        isinstance(kinds, dict) and all(map(_is_measured_kind, kinds.values())),
        "metrics.json has no valid measurements of scans from other sources.",
    )


def check_explanations(explanations: Mapping[str, Any]) -> None:
    """Check the numbers of explanations.json that the app and the cards show; raises `CheckpointError`."""
    methods, weights = (explanations.get(key, {}) for key in ("methods", "consensus_weights"))
    are_objects = isinstance(weights, dict) and isinstance(methods, dict)
    are_objects = are_objects and all(isinstance(measured, dict) for measured in methods.values())
    _require(
        are_objects and _are_numbers([*weights.values()], len(weights)),
        "explanations.json has no valid measurements of the maps.",
    )
    for method, measured in methods.items():
        pointing = measured.get("pointing_game")
        _require(
            pointing is None or (_is_interval(pointing) and isinstance(pointing.get("n"), int)),
            f"explanations.json has no valid measurements of {_short(method)}.",
        )


def check_size(size: int) -> None:
    """Check the size of the weights in bytes; raises `CheckpointError`."""
    _require(
        size <= MAX_WEIGHTS_BYTES,
        f"The weights have {size / 1e6:,.0f} MB; at most {MAX_WEIGHTS_BYTES / 1e6:.0f} MB are loaded.",
    )


def _check_labels(labels: Any, num_classes: Any) -> None:
    _require(isinstance(labels, list) and len(labels) > 0, "config.json has no label_names: the classes have no names.")
    _require(
        all(isinstance(label, str) and 0 < len(label) <= MAX_NAME_LENGTH for label in labels),
        f"label_names in config.json must be names of at most {MAX_NAME_LENGTH} characters.",
    )
    _require(
        2 <= len(labels) <= MAX_LABELS and len(set(labels)) == len(labels),
        f"config.json must name between 2 and {MAX_LABELS} different classes.",
    )
    _require(
        num_classes in (None, len(labels)),
        f"config.json names {len(labels)} classes, but its num_classes is {_short(num_classes)}.",
    )


def _check_model_args(arguments: Any) -> None:
    if arguments is None:
        return
    _require(isinstance(arguments, dict), "model_args in config.json is not an object.")
    forbidden = sorted(FORBIDDEN_MODEL_ARGS & arguments.keys())
    _require(not forbidden, f"model_args in config.json must not contain {', '.join(forbidden)}.")
    for name, value in arguments.items():
        values = value if isinstance(value, list) and len(value) <= MAX_MODEL_ARGUMENTS else [value]
        _require(
            all(_is_setting(single) for single in values),
            f"model_args in config.json has {name} = {_short(value)}, which is not an accepted value.",
        )


def _check_preprocessing(pretrained: Any) -> None:
    _require(
        isinstance(pretrained, dict), "config.json has no pretrained_cfg: it does not say how images are prepared."
    )
    size = pretrained.get("input_size")
    _require(
        _are_numbers(size, 3) and size[0] == 3 and all(side in SIDES for side in size[1:]),
        f"input_size in config.json is {_short(size)}; it must be [3, height, width], {SIDES.start} to "
        f"{SIDES.stop - 1} pixels each.",
    )
    for name in ("mean", "std"):
        value = pretrained.get(name)
        _require(_are_numbers(value, 3), f"{name} in config.json is {_short(value)}; it must be three numbers.")
    _require(min(pretrained["std"]) > 0, "std in config.json must be three numbers above zero.")
    _require(
        pretrained.get("interpolation") in INTERPOLATIONS,
        f"interpolation in config.json must be one of: {', '.join(INTERPOLATIONS)}.",
    )


def _check_own_section(own: Any) -> None:
    _require(isinstance(own, dict), "brain_xai in config.json is not an object.")
    scales = own.get("attribution_scale", {})
    positive = [own.get("temperature", 1.0), *(scales.values() if isinstance(scales, dict) else [None])]
    _require(
        _are_numbers(positive, len(positive)) and min(positive) > 0,
        "temperature and attribution_scale in config.json must be numbers above zero.",
    )
    version = own.get("frame", FRAME_VERSION)
    _require(
        version == FRAME_VERSION,
        f"Its images are framed in the way of version {_short(version)}; this program knows {FRAME_VERSION}.",
    )


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise CheckpointError(message)


def _is_setting(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_NAME_LENGTH
    return value is None or (isinstance(value, (int, float)) and abs(value) <= MAX_MODEL_ARGUMENT)


def _are_numbers(values: Any, count: int) -> bool:
    if not isinstance(values, Sequence) or len(values) != count:
        return False
    return all(type(value) in (int, float) and math.isfinite(value) for value in values)


def _is_interval(entry: Any) -> bool:
    return isinstance(entry, dict) and _are_numbers([entry.get(key) for key in ("value", "low", "high")], 3)


def _is_measured_kind(kind: Any) -> bool:
    entry = kind.get("tumor_or_not") if isinstance(kind, dict) else None
    return _is_interval(entry) and isinstance(entry.get("n"), int)


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _short(value: Any) -> str:
    return f"{str(value)[:60]!r}"
