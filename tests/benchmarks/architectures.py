"""Check that architectures work from end to end, and what they cost: a table for CONTRIBUTING.md, written by a program.

    python tests/benchmarks/architectures.py [--models resnet18 vit_small_patch16_224 ...] [--output FOLDER]

Each model is built with random weights, trained for a step, saved, loaded by timm, transformers and brain_xai, asked,
and explained by every method, in a process of its own. What was measured is added to architectures.json, and
architectures.md is written anew from it, so that the table can be made piece by piece.
"""

import argparse
import copy
import ctypes
import json
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from scipy.ndimage import uniform_filter1d
from timm.optim import create_optimizer_v2
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this script is started by its path
from brain_xai import METHODS, Classifier, MethodNotApplicable, explain, load_checkpoint
from brain_xai.checkpoint.folder import save_checkpoint
from brain_xai.methods.target_layer import LAYERS, TargetLayer, target_layer
from brain_xai.preprocess import Preprocessing
from tests.benchmarks.architectures_table import as_markdown
from tests.helpers.scans import LABELS, make_scan

# timm's names. It has no GoogLeNet, of which inception_v3 is a successor.
MODELS = (
    *("vgg16", "inception_v3", "resnet18", "resnet50", "resnet101", "resnet50d"),
    *("efficientnet_b0", "efficientnet_b1", "efficientnet_b7", "tf_efficientnetv2_b0", "tf_efficientnetv2_b3"),
    *("convnext_tiny", "mobilenetv3_large_100"),
    *("vit_small_patch16_224", "levit_256", "coatnet_0_rw_224", "swin_tiny_patch4_window7_224"),
    *("brain_xai_wide", "brain_xai_deep", "brain_xai_pyramid"),
)
# Few passes: whether a method works does not depend on them.
QUICK = {
    "occlusion": {"window": 0.5, "stride": 0.5},
    "smooth_grad": {"samples": 2},
    "integrated_gradients": {"steps": 2},
}
# The windows whose cost is measured, as fractions of the image's side.
OCCLUSION = {"window": 0.2, "stride": 0.2}
# Squeeze-and-excitation in timm.
GATES = ("SqueezeExcite", "SEModule")
# Random weights that are averaged over to find where a layer looks; with two, chance alone moved Inception by .36.
SEEDS = range(6)


def check(name: str, side: int) -> dict:
    """Return everything that the table says about one architecture, at side x side pixels."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=len(LABELS))
    result = {"parameters": sum(weight.numel() for weight in model.parameters()), "side": side}
    wake_up(model, side)
    result["training"] = train_step(model, side)
    with tempfile.TemporaryDirectory() as folder:
        config = model.pretrained_cfg
        preprocessing = Preprocessing((side, side), tuple(config["mean"]), tuple(config["std"]))
        save_checkpoint(Path(folder), model, label_names=LABELS, preprocessing=preprocessing, brain_xai={})
        result["megabytes"] = (Path(folder) / "model.safetensors").stat().st_size / 1e6
        classifier = load_checkpoint(folder)
        result["logits"] = compare_loaders(model, Path(folder), classifier)
    image = make_scan("glioma", 1, side=side)
    result["prediction"] = classifier.predict(image).probabilities
    result["methods"] = {key: try_method(classifier, image, key) for key in METHODS}
    result["layers"] = check_layers(name, classifier)
    result["cost"] = measure_costs(classifier, image)
    return result


def four_scans(side: int) -> torch.Tensor:
    """Return a scan of each class, from -1 to 1, [4, 3, side, side]."""
    scans = [np.asarray(make_scan(label, 0, side=side), dtype=np.float32) / 127.5 - 1 for label in LABELS]
    return torch.from_numpy(np.stack(scans))[:, None].repeat(1, 3, 1, 1)


def train_step(model: nn.Module, side: int) -> dict:
    """Do one step of the optimizer of `training.train` on four scans; return its loss and how many tensors changed."""
    model = model.to(memory_format=torch.channels_last).train()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    loss = nn.functional.cross_entropy(model(four_scans(side)), torch.arange(len(LABELS)))
    loss.backward()
    create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.05).step()
    changed = [not torch.equal(before[name], weight) for name, weight in model.named_parameters()]
    model.zero_grad()
    model.eval()
    return {"loss": float(loss.detach()), "changed": float(np.mean(changed))}


@torch.no_grad()
def wake_up(model: nn.Module, side: int) -> None:
    """Give a model what training gives it: weight in the branches beside skip connections, and batch statistics.

    timm initializes those branches to almost nothing, and without statistics the signal of deep models dies away.
    """
    for name, weight in model.named_parameters():
        if weight.ndim == 1 and weight.abs().max() < 1e-3 and not name.endswith("bias"):
            nn.init.normal_(weight, std=0.5)
    norms = [module for module in model.modules() if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0  # the statistics become those of the one batch that follows
    model.train()(four_scans(side))
    model.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


@torch.inference_mode()
def compare_loaders(model: nn.Module, folder: Path, classifier: Classifier) -> dict[str, float]:
    """Return the largest relative difference of each loader's logits from those of the model that was saved.

    In double precision: deep random models blow up the last digits of float32, which depend on the memory format.
    """
    from transformers import AutoModelForImageClassification

    images = four_scans(classifier.preprocessing.size[0]).double()
    expected = copy.deepcopy(model).double()(images)
    loaded = {
        "timm": timm.create_model(f"local-dir:{folder}", pretrained=True).eval().double()(images),
        "transformers": AutoModelForImageClassification.from_pretrained(folder).eval().double()(images).logits,
        "brain_xai": copy.deepcopy(classifier.model).double()(images),
    }
    return {name: float((logits - expected).abs().max() / expected.abs().max()) for name, logits in loaded.items()}


def try_method(classifier: Classifier, image: object, key: str) -> dict[str, str]:
    """Return whether a method "works", or why it is "refused" or "failed"."""
    try:
        attribution = explain(classifier, image, key, **QUICK.get(key, {})).attribution
    except MethodNotApplicable as error:
        return {"refused": str(error)}
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}"}
    if not np.isfinite(attribution).all() or np.ptp(attribution) == 0:
        return {"failed": "the map is empty or not finite"}
    return {"works": ""}


# Is the measured geometry right?


def check_layers(name: str, classifier: Classifier) -> dict[str, dict | None]:
    """Return each layer as `brain_xai` measured it, and how far from there it really looks; None without such a layer.

    Independent of the measurement, which overwrites the weights: the center of the pixels that the gradient of a
    position reaches, averaged over random weights and images.
    """
    side = widest(classifier)
    layers = {which: layer for which in LAYERS if (layer := target_layer(classifier, which)) is not None}
    positions = {which: middle_positions(layer, side) for which, layer in layers.items()}
    own = classifier.preprocessing.size[0]
    profiles = [sensitivity(woken(name, own, seed), side, layers, positions) for seed in SEEDS] if layers else []
    results: dict[str, dict | None] = dict.fromkeys(LAYERS)
    for which, layer in layers.items():
        # Smoothed, and without its tails, which the border of the image cuts off.
        profile = uniform_filter1d(sum(found[which] for found in profiles), round(layer.stride[0]) // 2 * 2 + 1, axis=2)
        profile *= profile > profile.max(axis=2, keepdims=True) / 2
        centers = profile @ np.arange(side) / profile.sum(axis=2)
        measured = np.array(layer.offset) + np.array(layer.stride) * np.array(positions[which])
        stretched = (np.array(positions[which]) + 0.5) * np.array(layer.stride) - 0.5
        results[which] = {
            "name": layer.name,
            "cells": layer.grid_size,
            "stride": layer.stride,
            "offset": layer.offset,
            "error": float(np.abs(centers - measured).mean()),
            "error_stretched": float(np.abs(centers - stretched).mean()),
        }
    return results


@torch.inference_mode()
def widest(classifier: Classifier) -> int:
    """Return the side of an image that is larger than what a position sees, or the model's own if it takes no other."""
    side = classifier.preprocessing.size[0]
    try:
        classifier.model.forward_features(torch.zeros(1, 3, 2 * side, 2 * side))
    except (AssertionError, RuntimeError):
        return side
    return 2 * side


def middle_positions(layer: TargetLayer, side: int) -> list[tuple[int, int]]:
    """Return the position that lies nearest to the middle of the image, and the one before it in both axes."""
    middle = round(((side - 1) / 2 - layer.offset[0]) / layer.stride[0])
    return [(middle, middle), (middle - 1, middle - 1)]


def woken(name: str, side: int, seed: int) -> nn.Module:
    """Return a model with other random weights."""
    torch.manual_seed(seed)
    model = timm.create_model(name, num_classes=len(LABELS))
    wake_up(model, side)
    return model


def sensitivity(
    model: nn.Module, side: int, layers: dict[str, TargetLayer], positions: dict[str, list]
) -> dict[str, np.ndarray]:
    """Return how much each row and column of a random image changes positions, {layer: [positions, axes, pixels]}."""
    model.double()  # the gradients of deep networks are too small for single precision
    images = torch.randn(1, 3, side, side, dtype=torch.float64).requires_grad_()
    outputs, found = {}, {}
    for which, layer in layers.items():
        model.get_submodule(layer.name).register_forward_hook(
            lambda module, inputs, output, which=which: outputs.update({which: output})
        )
    for module in model.modules():
        if type(module).__name__ in GATES:
            module.register_forward_hook(_fix_gates)
    model.forward_features(images)
    for which, output in outputs.items():
        gradients = []
        for row, column in positions[which]:
            energy = output[:, :, row, column].square().sum()
            gradient = torch.autograd.grad(energy, images, retain_graph=True)[0].square().sum(dim=(0, 1)).numpy()
            gradients.append([gradient.sum(axis=axis) / gradient.sum() for axis in (1, 0)])
        found[which] = np.array(gradients)
    return found


def _fix_gates(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
    """Return the output with gates that are constants: through them, every pixel of the image counts alike."""
    gates = torch.where(inputs[0] == 0, 0, output / inputs[0]).detach()
    return inputs[0] * gates


# What does it cost?


def measure_costs(classifier: Classifier, image: object) -> dict:
    """Return seconds of processor time and megabytes of a prediction and of maps with their prediction."""
    pixel_values = classifier.prepare(image).pixel_values
    costs = {"prediction": measure(lambda: classifier.logits(pixel_values))[0]}
    for key, settings in (("grad_cam", {}), ("attention_relevance", {}), ("occlusion", OCCLUSION)):
        method = METHODS[key]
        if method.reason_unsupported(classifier):
            continue
        run = partial(explain, classifier, image, key, **settings)
        costs[f"{key}, auto"], ours = measure(run)
        if "captum" in method.engines:
            costs[f"{key}, captum"], theirs = measure(partial(run, engine="captum"))
            difference = np.abs(ours.attribution - theirs.attribution).max() / np.abs(theirs.attribution).max()
            costs[f"{key}, captum"]["difference"] = float(difference)
    return costs


def measure(run: Callable[[], Any]) -> tuple[dict[str, float | None], Any]:
    """Return what a call costs and what it returns.

    The cost is the least processor time of a few runs and the peak of memory above that before, None if unknown.
    """
    before = _memory("VmRSS")
    seconds: list[float] = []
    while not seconds or (len(seconds) < 5 and sum(seconds) < 1):
        started = time.process_time()
        result = run()
        seconds.append(time.process_time() - started)
    peak = _memory("VmHWM", reset=False)
    megabytes = None if before is None else max(0.0, peak - before)
    return {"seconds": min(seconds), "megabytes": megabytes}, result


def _memory(entry: str, reset: bool = True) -> float | None:
    """Return an entry of this process's memory in MB; with `reset`, unused memory is given back and the peak forgotten.

    Only Linux tells.
    """
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    if reset:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    return int(re.search(rf"{entry}:\s+(\d+)", status.read_text()).group(1)) / 1024


# The command


def main(arguments: list[str] | None = None) -> None:
    """Check the models one by one, each in a process of its own, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="*", default=MODELS, help="timm's names; if not given, all of the table")
    parser.add_argument("--side", type=int, default=224, help="side of the image in pixels")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder for the JSON and the table")
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)  # for the process of a single model
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.models if not timm.is_model(name)]:
        parser.error(f"timm has no {', '.join(unknown)}.")
    if options.result is not None:
        torch.set_num_threads(1)
        warnings.simplefilter("ignore")
        options.result.write_text(json.dumps(check(options.models[0], options.side)))
        return
    file = options.output / "architectures.json"
    results = json.loads(file.read_text()) if file.is_file() else {}
    write(results, options.output)
    for name in options.models:
        started = time.monotonic()
        results[name] = check_in_process(name, options.side)
        write(results, options.output)
        print(f"{name}: {results[name].get('failed', 'checked')} ({time.monotonic() - started:.0f} s)", flush=True)


def write(results: dict[str, dict], folder: Path) -> None:
    """Write what was measured and the table made from it."""
    (folder / "architectures.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "architectures.md").write_text(as_markdown(results, MODELS), encoding="utf-8")


def check_in_process(name: str, side: int) -> dict:
    """Return what `check` returns in a process of its own, or how that "failed"."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result.json"
        command = [sys.executable, __file__, "--models", name, "--side", str(side), "--result", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return json.loads(file.read_text())
    return {"failed": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit status {done.returncode}"}


if __name__ == "__main__":
    main()
