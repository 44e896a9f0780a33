"""The end of a run: calibrate on validation, write the checkpoint, measure what was written, write the report."""

import copy
import json
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from brain_xai.checkpoint.catalog import load_checkpoint
from brain_xai.checkpoint.folder import save_checkpoint
from brain_xai.classifier import CheckpointInfo, Classifier
from training.data.duplicate_groups import duplicate_report
from training.data.splits import TrainingData
from training.evaluation.calibration import attribution_scales, fit_temperature
from training.evaluation.held_out import for_views
from training.evaluation.metrics import Bootstrap, ClassificationMetrics
from training.learning.loop import Training, model_only_throughput
from training.learning.model import InitialWeights, center_head
from training.learning.settings import TrainConfig, command_of, command_without_paths, settings_record
from training.learning.state import TrainingState
from training.learning.tracking import Track, log_results
from training.publish import push_after_training
from training.publishing.scans import write_cases
from training.report.card import card_of
from training.report.figures import save_figures
from training.report.maps import PredictedScans, save_maps

VERSIONS_OF = ("torch", "timm", "transformers", "accelerate", "datasets", "evaluate", "captum", "safetensors", "numpy")


def finish(
    training: Training,
    data: TrainingData,
    state: TrainingState,
    initial_weights: InitialWeights,
    track: Track | None = None,
) -> None:
    """Turn the best epoch into the checkpoint folder `state.folder`; the test split is used here, once."""
    training.accelerator.wait_for_everyone()
    if not training.accelerator.is_main_process:
        return
    settings, folder = training.settings, state.folder
    center_head(training.load_best(folder))
    throughput = model_only_throughput(training)

    classifier, metadata = calibrate(training, data)
    if track is not None:
        metadata["tracking"] = asdict(track)
    write_checkpoint(folder, classifier, metadata, settings)
    stored = load_checkpoint(folder, training.accelerator.device)
    predictions = {
        name: predict(stored, training, data, indices)
        for name, indices in (("validation", data.splits.validation), ("test", data.splits.test))
    }
    results = {name: measure(answers, data, settings) for name, answers in predictions.items()}
    metrics = run_record(settings, data, initial_weights) | results
    metrics["training"] = describe_training(training, state, throughput)
    metrics["history"] = state.history
    if initial_weights.earlier is not None:
        metrics = continued(metrics, initial_weights.earlier)
    write_json(folder / "metrics.json", metrics)
    write_report(folder, stored, data, predictions["test"], settings)
    log_results(training.accelerator, len(state.history), folder, stored.info.revision)
    state.clear()
    print_results(folder, metrics)
    if settings.push_to_hub:
        push_after_training(folder, settings.push_to_hub, settings.private, settings.revision)


@dataclass(frozen=True)
class Predictions:
    """Calibrated `probabilities` float64 [n, classes] of the images `indices` int64 [n]."""

    indices: np.ndarray
    probabilities: np.ndarray


def logits_of(classifier: Classifier, training: Training, data: TrainingData, indices: np.ndarray) -> torch.Tensor:
    """Return float32 logits [n, classes] on the CPU."""
    batches = np.array_split(indices, -(-len(indices) // training.settings.evaluation_batch_size))
    pixels = (torch.tensor(data.scans.pixels[batch])[:, None].to(training.accelerator.device) for batch in batches)
    return torch.cat([classifier.logits(training.normalize(images.float() / 255)) for images in pixels])


def calibrate(training: Training, data: TrainingData) -> tuple[Classifier, dict]:
    """Return the classifier as it will be stored, and what config.json records about it.

    The weights are stored in half precision if that changes no answer on validation, else in full precision.
    """
    scans, validation = data.scans, data.splits.validation
    info = CheckpointInfo("training", "0", training.averaged.pretrained_cfg["architecture"])
    model = training.averaged.requires_grad_(False)
    full = Classifier(model, scans.label_names, training.preprocessing, info)
    half = replace(full, model=copy.deepcopy(model))
    for value in half.model.state_dict().values():
        if value.is_floating_point():
            value.copy_(value.half())
    answers = {name: logits_of(each, training, data, validation) for name, each in (("full", full), ("half", half))}
    same = torch.equal(answers["full"].argmax(dim=1), answers["half"].argmax(dim=1))
    classifier, logits = (half, answers["half"]) if same else (full, answers["full"])
    classifier = replace(classifier, temperature=fit_temperature(logits, torch.tensor(scans.labels[validation])))
    return classifier, {
        "temperature": classifier.temperature,
        "training": settings_record(training.settings),
        "stored_as": "float16" if same else "float32",
        "attribution_scale": attribution_scales(classifier, [scans.pixels[i] for i in validation]),
    }


def write_checkpoint(folder: Path, classifier: Classifier, metadata: dict, settings: TrainConfig) -> None:
    """Write config.json and model.safetensors."""
    save_checkpoint(
        folder,
        classifier.model,
        label_names=classifier.label_names,
        preprocessing=classifier.preprocessing,
        model_args=settings.timm_args,
        brain_xai=metadata,
    )


def predict(classifier: Classifier, training: Training, data: TrainingData, indices: np.ndarray) -> Predictions:
    """Return the calibrated answers of the stored checkpoint."""
    logits = logits_of(classifier, training, data, indices)
    return Predictions(indices, torch.softmax(logits.double() / classifier.temperature, dim=1).numpy())


def measure(answers: Predictions, data: TrainingData, settings: TrainConfig) -> dict:
    """Return every metric of one split."""
    names = data.scans.label_names
    return ClassificationMetrics(keep_in_memory=True).compute(
        probabilities=answers.probabilities,
        references=data.scans.labels[answers.indices],
        groups=data.groups[answers.indices],
        label_names=list(names),
        no_tumor_label=names.index(settings.no_tumor_label) if settings.no_tumor_label in names else None,
        bootstrap=Bootstrap(seed=settings.seed),
    )


def run_record(settings: TrainConfig, data: TrainingData, initial_weights: InitialWeights) -> dict:
    """Return what metrics.json says about how the run can be repeated."""
    return {
        "split": settings.split,
        "seed": settings.seed,
        "command": command_of(settings),
        "init": initial_weights.init_from,
        "data": describe_data(settings, data),
        "versions": {name: version(name) for name in VERSIONS_OF},
    }


def continued(metrics: dict, earlier: dict) -> dict:
    """Return the metrics.json of a run that started from the weights of an `earlier` one: commands and times add up."""
    before, now = earlier["training"], dict(metrics["training"])
    now["seconds"] += before["seconds"]
    energy, energy_before = now.pop("energy", None), before.get("energy")
    if energy and energy_before:  # otherwise a part was not measured
        now["energy"] = energy | {name: energy[name] + energy_before[name] for name in ("energy_kwh", "co2_kg")}
    return metrics | {
        "command": f"{command_without_paths(earlier['command'])}\n{metrics['command']}",
        "init": f"{earlier['init']}; then {metrics['init']}",
        "training": now,
    }


def describe_data(settings: TrainConfig, data: TrainingData) -> dict:
    """Return source, fingerprint and numbers of images and duplicates."""
    scans = data.scans
    report = duplicate_report(data.groups, scans.labels, scans.label_names, scans.official_split)
    numbers = ("images", "distinct_pictures", "test_images", "test_images_with_copy_in_train")
    return {
        "source": settings.dataset or settings.kaggle or Path(settings.data_dir).resolve().name,
        "fingerprint": scans.fingerprint,
        **{key: report[key] for key in numbers},
        "left_out": len(scans.skipped),
        "n": data.identity.sizes,
    }


def describe_training(training: Training, state: TrainingState, throughput: float) -> dict:
    """Return how long the run took and on what; `throughput` is the images per second of the bare model."""
    history, accelerator = state.history, training.accelerator
    last_size = [row for row in history if row["size"] == history[-1]["size"]]
    return {
        "seconds": sum(row["seconds"] for row in history),
        "images_per_second": max(row["images_per_second"] for row in last_size),
        "bare_images_per_second": throughput * accelerator.num_processes,
        "data_wait_share": float(np.mean([row["data_wait_share"] for row in history])),
        "epochs": len(history),
        "best_epoch": state.best["epoch"],
        "device": str(accelerator.device.type),
        "processes": accelerator.num_processes,
        **describe_energy(training.settings, history),
    }


def describe_energy(settings: TrainConfig, history: list[dict]) -> dict:
    """Return what the epochs used, {} if that was not measured."""
    if not settings.country:
        return {}
    used = {name: sum(row[name] for row in history) for name in ("energy_kwh", "co2_kg")}
    return {"energy": used | {"country": settings.country, "codecarbon": version("codecarbon")}}


def write_report(
    folder: Path, classifier: Classifier, data: TrainingData, tested: Predictions, settings: TrainConfig
) -> None:
    """Draw the figures, save one test image of each class as an example, and write the model card."""
    scans, metrics = data.scans, json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    save_figures(metrics, folder / "figures")
    (folder / "examples").mkdir(exist_ok=True)
    random = np.random.default_rng(settings.seed)
    shown = [index for index in range(len(scans.label_names)) if index in scans.labels[tested.indices]]
    for index in shown:
        chosen = random.choice(tested.indices[scans.labels[tested.indices] == index])
        Image.fromarray(scans.pixels[chosen]).save(folder / "examples" / f"{scans.label_names[index]}.png")
    write_cases(folder, {f"{scans.label_names[index]}.png": scans.label_names[index] for index in shown})
    predicted = tested.probabilities.argmax(axis=1)
    answers = PredictedScans(scans.pixels[tested.indices], scans.labels[tested.indices], predicted)
    save_maps(for_views(classifier), answers, settings.seed, folder / "figures" / "maps.png")
    (folder / "README.md").write_text(card_of(folder), encoding="utf-8")


def write_json(file: Path, content: dict) -> None:
    """Write `content` as indented JSON."""
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def print_results(folder: Path, metrics: dict) -> None:
    """Print the main results on the test split and where the checkpoint is."""
    test = metrics["test"]
    for name in ("accuracy", "macro_f1", "tumor_miss_rate", "ece"):
        if test[name] is not None:
            print(f"test {name}: {test[name]['value']:.4f} [{test[name]['low']:.4f}, {test[name]['high']:.4f}]")
    print(f"The checkpoint is in {folder}.")
