"""Train a timm model on brain-MRI slices and write a checkpoint folder.

accelerate launch training/train.py --data-dir DIR --model efficientnet_b0 --output-dir runs/b0
"""

import sys
import time
from contextlib import nullcontext
from pathlib import Path

# `accelerate launch training/train.py` puts only training/ on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, set_seed
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3
from transformers import HfArgumentParser, get_scheduler

from brain_xai.preprocess import Preprocessing
from training.data.counterfactuals import PASTED
from training.data.duplicate_groups import duplicate_groups
from training.data.loader import Loaders, Normalize, build_loaders
from training.data.pool import Pool, make_pool
from training.data.sources import DataError, load_scans
from training.data.splits import SplitIdentity, TrainingData, split_scans
from training.learning.energy import EnergyMeter
from training.learning.loop import Training, train_epoch, validate, validate_kinds
from training.learning.losses import BoxLoss, Loss, Teacher
from training.learning.model import build_model, load_teacher
from training.learning.settings import TrainConfig
from training.learning.state import TrainingState
from training.learning.tracking import accelerator_of, log_epoch, start_tracking
from training.publish import PushError, check_token


def main() -> None:
    """Parse the command line and train; expected errors end with one sentence."""
    try:
        parser = HfArgumentParser(TrainConfig)
        (settings,) = parser.parse_dict(vars(parser.parse_args()))  # which tells an unknown flag in a sentence
        accelerator = accelerator_of(settings)
        if settings.push_to_hub and accelerator.is_main_process:
            warn_about_token()
        train(settings, accelerator)
        accelerator.end_training()
    except DataError as error:
        raise SystemExit(f"error: {error}") from error


def warn_about_token() -> None:
    """Say before hours of training why its result could not be published now."""
    try:
        check_token()
    except PushError as error:
        print(f"If nothing changes, nothing will be published at the end. {error}", flush=True)


def train(settings: TrainConfig, accelerator: Accelerator) -> None:
    """Train, keep the best epoch by validation, and write the checkpoint folder; raises `DataError`."""
    set_seed(settings.seed)
    state = TrainingState.open(settings, accelerator)
    if settings.resume and state.is_finished:
        if accelerator.is_main_process:
            state.clear()  # it may have been killed while it did so
        accelerator.print(f"The run in {state.folder} is finished; there is nothing to resume.")
        return
    data = load_data(settings, accelerator)
    with accelerator.main_process_first():
        model, initial_weights = build_model(settings, data)
    accelerator.print(f"Initial weights: {initial_weights.init_from}")
    with accelerator.main_process_first():
        pool = make_pool(settings, data, accelerator.print)
    state.set_data(data.identity, pool.fingerprint)
    loaders = build_loaders(settings, pool, data.splits.validation, accelerator)
    teacher = load_teacher(settings, data.identity)
    training = prepare(settings, accelerator, model, pool, loaders, teacher)
    meter = EnergyMeter(settings.country, accelerator) if settings.country else None
    track = start_tracking(settings, accelerator)
    state.restore(accelerator)
    for epoch in state.remaining_epochs():
        started, size = time.perf_counter(), settings.epoch_sizes[epoch]
        row = {"epoch": epoch + 1, "size": size}
        with meter.measuring(row) if meter else nullcontext():
            row |= train_epoch(training, loaders.of_epoch(epoch, size), epoch, loaders.counterfactuals.get(size))
            row |= validate(training, loaders.validation) | validate_kinds(training, loaders.kinds)
        row["seconds"] = time.perf_counter() - started
        state.history.append(row)
        accelerator.print(describe(row, len(settings.epoch_sizes)), flush=True)
        log_epoch(accelerator, row)
        if state.best is row:
            training.save_best(state.folder)
        state.save(accelerator)
    if not settings.test:
        accelerator.print(f"Validation only, as --no-test says. The last state is in {state.folder}.")
        return
    # Imported here, because it imports evaluate and matplotlib: invalid settings should fail at once.
    from training.finish import finish

    finish(training, data, state, initial_weights, track)


def load_data(settings: TrainConfig, accelerator: Accelerator) -> TrainingData:
    """Decode the images, find the duplicates and draw the splits, which are the same in every process."""
    with accelerator.main_process_first():
        size = settings.epoch_sizes[-1]
        scans = load_scans(settings.data_dir, settings.dataset, settings.kaggle, size=size, framed=settings.frame)
    groups = [duplicate_groups(scans.thumbnails) if accelerator.is_main_process else None]
    (groups,) = broadcast_object_list(groups)
    fractions = settings.validation_fraction, settings.test_fraction
    splits = split_scans(scans, groups, settings.split, settings.seed, *fractions)
    for file, reason in scans.skipped:
        accelerator.print(f"skipped: {file} ({reason})")
    for name, indices in vars(splits).items():
        counts = np.bincount(scans.labels[indices], minlength=len(scans.label_names))
        per_class = ", ".join(f"{label} {count}" for label, count in zip(scans.label_names, counts, strict=True))
        distinct = len(np.unique(groups[indices]))
        accelerator.print(f"{name}: {len(indices)} images, {distinct} of them distinct ({per_class})")
    return TrainingData(scans, groups, splits, SplitIdentity.of_splits(splits, settings.split, settings.seed, scans))


def prepare(
    settings: TrainConfig,
    accelerator: Accelerator,
    model: torch.nn.Module,
    pool: Pool,
    loaders: Loaders,
    teacher: Teacher | None = None,
) -> Training:
    """Return the optimizer, schedule, moving average and loss of a run, on the device."""
    sizes = settings.epoch_sizes
    mean, std = model.pretrained_cfg["mean"], model.pretrained_cfg["std"]
    preprocessing = Preprocessing((sizes[-1], sizes[-1]), tuple(mean), tuple(std), frame=settings.frame)

    model = model.to(accelerator.device)  # before the moving average copies it
    optimizer = create_optimizer_v2(model, "adamw", lr=settings.learning_rate, weight_decay=settings.weight_decay)
    steps = -(-len(loaders.training[sizes[-1]]) // settings.gradient_accumulation_steps) * len(sizes)
    # Not prepared: accelerate would step it once per process, while we count our own steps.
    scheduler = get_scheduler(settings.schedule, optimizer, round(steps * settings.warmup_fraction), steps)
    ema = ModelEmaV3(model, decay=settings.ema_decay, use_warmup=True) if settings.ema_decay else None
    box_loss = BoxLoss(model, preprocessing) if settings.boxes else None  # hooks the model, not the copy in `ema`
    weights, label_sets = class_weights(settings, pool, loaders), torch.tensor(pool.label_sets)
    criterion = Loss(settings, weights, teacher, box_loss, label_sets).to(accelerator.device)
    model, optimizer = accelerator.prepare(model, optimizer)
    accelerator.register_for_checkpointing(scheduler, *([ema] if ema else []))
    return Training(
        settings=settings,
        accelerator=accelerator,
        model=model,
        ema=ema,
        optimizer=optimizer,
        scheduler=scheduler,
        criterion=criterion,
        preprocessing=preprocessing,
        normalize=Normalize(preprocessing).to(accelerator.device),
    )


def class_weights(settings: TrainConfig, pool: Pool, loaders: Loaders) -> torch.Tensor | None:
    """Return float32 weights [classes] inverse to the class frequencies in an epoch, None if they are turned off."""
    if not settings.class_weights:
        return None
    # A label that leaves several classes open counts in equal parts for each.
    shares = pool.label_sets / pool.label_sets.sum(axis=1, keepdims=True)
    counts = shares[pool.labels[list(loaders.sampler)]].sum(axis=0)
    if settings.counterfactuals:
        counts[pool.healthy] *= 1 - PASTED * settings.counterfactuals  # these get a tumor pasted
    return torch.tensor(counts.sum() / (len(counts) * counts), dtype=torch.float32)


def describe(row: dict, epochs: int) -> str:
    """Return the line that is printed after an epoch."""
    away = f", away {row['validation_away']:.3f}" if "validation_away" in row else ""
    return (
        f"epoch {row['epoch']}/{epochs} at {row['size']} px: training loss {row['train_loss']:.3f}, "
        f"accuracy {row['train_accuracy']:.3f}; validation loss {row['validation_loss']:.3f}, "
        f"accuracy {row['validation_accuracy']:.4f}, macro-F1 {row['validation_macro_f1']:.4f}{away}; "
        f"{row['images_per_second']:.1f} images/s, {row['data_wait_share']:.1%} of the time waiting for data"
    )


if __name__ == "__main__":
    main()
