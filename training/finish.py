"""The end of a run: calibrate on validation, write the checkpoint, measure what was written, draw and describe it."""

import copy
import json
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file

from brain_xai.checkpoint.catalog import load_checkpoint
from brain_xai.checkpoint.folder import save_checkpoint
from brain_xai.classifier import Classifier
from brain_xai.explanation import MethodNotApplicable, explain
from brain_xai.methods import METHODS
from brain_xai.preprocess import Preprocessing
from training.data.duplicate_groups import duplicate_report
from training.data.loader import ToInput
from training.data.sources import Scans
from training.data.splits import Splits
from training.evaluation.calibration import fit_temperature
from training.evaluation.metrics import Bootstrap, ClassificationMetrics
from training.learning.model import center_head
from training.learning.settings import TrainConfig, command_of, command_without_paths, settings_record
from training.learning.state import clear_state
from training.publish import push_after_training
from training.report.card import card_of
from training.report.figures import save_figures
from training.report.maps import PredictedScans, save_maps

VERSIONS_OF = ("torch", "timm", "transformers", "accelerate", "datasets", "evaluate", "captum", "safetensors", "numpy")
# Maps of up to so many validation pictures set the scale of a method's colours; of a dear method so many as its cost in
# forward passes allows.
SCALE_PICTURES = 200
SCALE_FORWARD_PASSES = 1600


def finish(
    config: TrainConfig,
    accelerator: Accelerator,
    model: torch.nn.Module,
    preprocessing: Preprocessing,
    scans: Scans,
    groups: np.ndarray,
    splits: Splits,
    history: list[dict],
    start: str,
    earlier: dict | None = None,
) -> None:
    """Turn the best epoch into the checkpoint folder `config.output_dir`; the test split is used here, once.

    `start` says what the weights began as; `earlier` is the metrics.json of the run they came from, if there was one.
    """
    accelerator.wait_for_everyone()
    if not accelerator.is_main_process:
        return
    folder = Path(config.output_dir)
    model.load_state_dict(load_file(folder / "best.safetensors"))
    center_head(model)
    model.eval()
    to_input = ToInput(preprocessing, accelerator.device)
    speed = bare_speed(model, config.batch_size, preprocessing.size[0], accelerator.device)

    logits = predict(model, scans, splits.validation, to_input)
    section = {"temperature": fit_temperature(logits, torch.tensor(scans.labels[splits.validation]))}
    section |= {"training": settings_record(config)}
    classifier = write_checkpoint(config, model, preprocessing, scans, splits.validation, logits, section)

    on_device = copy.deepcopy(classifier.model).to(accelerator.device)
    temperature = classifier.temperature
    measured = {"validation": splits.validation, "test": splits.test}
    answers = {name: predict(on_device, scans, indices, to_input) for name, indices in measured.items()}
    results = {
        name: measure(answers[name] / temperature, scans, groups, indices, config) for name, indices in measured.items()
    }
    commands = [command_of(config)]
    training = describe_training(history, speed, accelerator)
    if earlier is not None:
        commands.insert(0, command_without_paths(earlier["command"]))
        start = f"{earlier['init']}; then {start}"
        training["seconds"] += earlier["training"]["seconds"]
    metrics = {
        "split": config.split,
        "seed": config.seed,
        "command": "\n".join(commands),
        "init": start,
        "data": describe_data(config, scans, groups, splits),
        "training": training,
        "versions": {name: version(name) for name in VERSIONS_OF},
        **results,
        "history": history,
    }
    write_json(folder / "metrics.json", metrics)
    save_figures(metrics, folder / "figures")
    write_examples(folder, scans, splits.test, config.seed)
    tested = PredictedScans(scans.pixels[splits.test], scans.labels[splits.test], answers["test"].argmax(dim=1).numpy())
    save_maps(classifier, tested, config.seed, folder / "figures" / "maps.png")
    (folder / "README.md").write_text(card_of(folder), encoding="utf-8")
    clear_state(folder)
    report(folder, metrics)
    if config.push_to_hub:
        push_after_training(folder, config.push_to_hub, config.private, config.revision)


@torch.inference_mode()
def predict(model: torch.nn.Module, scans: Scans, indices: np.ndarray, to_input: ToInput) -> torch.Tensor:
    """Return float32 logits [n, classes] on the CPU."""
    batches = np.array_split(indices, -(-len(indices) // 64))
    pixels = (torch.tensor(scans.pixels[batch])[:, None].to(to_input.mean.device).float() / 255 for batch in batches)
    return torch.cat([model(to_input(images)).float().cpu() for images in pixels])


def write_checkpoint(
    config: TrainConfig,
    model: torch.nn.Module,
    preprocessing: Preprocessing,
    scans: Scans,
    validation: np.ndarray,
    logits: torch.Tensor,
    section: dict,
) -> Classifier:
    """Save in half precision where that changes no validation answer, else in full; add the scales of the maps."""
    folder = Path(config.output_dir)

    def save(dtype: torch.dtype) -> Classifier:
        save_checkpoint(
            folder,
            model,
            label_names=scans.label_names,
            preprocessing=preprocessing,
            model_args=json.loads(config.model_args),
            brain_xai=section,
            dtype=dtype,
        )
        return load_checkpoint(folder)

    dtype = torch.float16
    classifier = save(dtype)
    stored = predict(classifier.model, scans, validation, ToInput(preprocessing, torch.device("cpu")))
    if not torch.equal(stored.argmax(dim=1), logits.argmax(dim=1)):
        dtype = torch.float32
        classifier = save(dtype)
    section["stored_as"] = str(dtype).removeprefix("torch.")
    section["attribution_scale"] = attribution_scales(classifier, [scans.pixels[i] for i in validation])
    return save(dtype)


def attribution_scales(classifier: Classifier, pictures: Sequence[np.ndarray]) -> dict[str, float]:
    """Return per method how strong (in its unit) the strongest half per cent of a map is: the median over the pictures.

    It is what the overlay draws in full colour, so that maps of different pictures can be compared. The single
    strongest pixel would say too little: grainy maps have a few far above the rest, and would look empty.
    """
    scales = {}
    for key, method in METHODS.items():
        count = min(len(pictures), SCALE_PICTURES, SCALE_FORWARD_PASSES // method.forward_passes)
        chosen = np.linspace(0, len(pictures) - 1, count).round().astype(int)
        try:
            maps = [explain(classifier, Image.fromarray(pictures[i]), key).attribution for i in chosen]
        except MethodNotApplicable:
            continue
        scales[key] = float(np.median([np.quantile(np.abs(attribution), 0.995) for attribution in maps]))
    return {method: scale for method, scale in scales.items() if scale > 0}


def measure(logits: torch.Tensor, scans: Scans, groups: np.ndarray, indices: np.ndarray, config: TrainConfig) -> dict:
    """Return every metric of one split from calibrated logits [n, classes]."""
    names = scans.label_names
    return ClassificationMetrics(keep_in_memory=True).compute(
        probabilities=torch.softmax(logits.double(), dim=1).numpy(),
        references=scans.labels[indices],
        groups=groups[indices],
        label_names=list(names),
        no_tumor_label=names.index(config.no_tumor_label) if config.no_tumor_label in names else None,
        bootstrap=Bootstrap(seed=config.seed),
    )


def bare_speed(model: torch.nn.Module, batch_size: int, size: int, device: torch.device, steps: int = 5) -> float:
    """Return training pictures per second of the model alone, on one batch that is already there (best of `steps`)."""
    model = copy.deepcopy(model).train()
    optimizer = torch.optim.AdamW(model.parameters())
    pixel_values = torch.randn(batch_size, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    seconds = []
    for _ in range(steps):
        started = time.perf_counter()
        model(pixel_values).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return batch_size / min(seconds)


def describe_data(config: TrainConfig, scans: Scans, groups: np.ndarray, splits: Splits) -> dict:
    report = duplicate_report(groups, scans.labels, scans.label_names, scans.official_split)
    numbers = ("images", "distinct_pictures", "test_images", "test_images_with_copy_in_train")
    return {
        "source": config.dataset or config.kaggle or Path(config.data_dir).resolve().name,
        "fingerprint": scans.fingerprint,
        **{key: report[key] for key in numbers},
        "left_out": len(scans.left_out),
        "n": {name: len(indices) for name, indices in vars(splits).items()},
    }


def describe_training(history: list[dict], speed: float, accelerator: Accelerator) -> dict:
    last_size = [row for row in history if row["size"] == history[-1]["size"]]
    return {
        "seconds": sum(row["seconds"] for row in history),
        "images_per_second": max(row["images_per_second"] for row in last_size),
        "bare_images_per_second": speed * accelerator.num_processes,
        "data_wait_share": float(np.mean([row["data_wait_share"] for row in history])),
        "epochs": len(history),
        "best_epoch": max(history, key=lambda row: row["validation_macro_f1"])["epoch"],
        "device": str(accelerator.device.type),
        "processes": accelerator.num_processes,
    }


def write_examples(folder: Path, scans: Scans, test: np.ndarray, seed: int) -> None:
    """Put one test picture of each class, drawn by seed, into `examples/`."""
    (folder / "examples").mkdir(exist_ok=True)
    random = np.random.default_rng(seed)
    for index, label in enumerate(scans.label_names):
        chosen = random.choice(test[scans.labels[test] == index])
        Image.fromarray(scans.pixels[chosen]).save(folder / "examples" / f"{label}.png")


def write_json(file: Path, content: dict) -> None:
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def report(folder: Path, metrics: dict) -> None:
    test = metrics["test"]
    for name in ("accuracy", "macro_f1", "tumor_miss_rate", "ece"):
        if test[name] is not None:
            print(f"test {name}: {test[name]['value']:.4f} [{test[name]['low']:.4f}, {test[name]['high']:.4f}]")
    print(f"The checkpoint is in {folder}.")
