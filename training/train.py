"""Train a timm model on brain-MRI slices and write a checkpoint folder.

accelerate launch training/train.py --data-dir DIR --model efficientnet_b0 --output-dir runs/b0
"""

import json
import sys
import time
from pathlib import Path

# `accelerate launch training/train.py` puts only training/ on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, set_seed
from huggingface_hub import get_token
from safetensors.torch import save_file
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3
from transformers import HfArgumentParser, get_cosine_schedule_with_warmup

from brain_xai.preprocess import Preprocessing
from training.data.boxes import load_boxes
from training.data.duplicate_groups import duplicate_groups
from training.data.loader import EpochSampler, ScanDataset, ToInput, evaluation_loader, train_loader
from training.data.sources import DataError, Scans, load_scans
from training.data.splits import SplitIdentity, Splits, split_scans
from training.learning.loop import train_epoch, validate
from training.learning.losses import BoxLoss, Loss
from training.learning.model import build_model, earlier_run, load_teacher
from training.learning.settings import TrainConfig
from training.learning.state import Progress, is_finished, load_state, save_state, start_afresh
from training.publish import NO_TOKEN


def main() -> None:
    (config,) = HfArgumentParser(TrainConfig).parse_args_into_dataclasses()
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision, gradient_accumulation_steps=config.gradient_accumulation_steps
    )
    if config.push_to_hub and get_token() is None:
        accelerator.print(f"Nothing will be published at the end. {NO_TOKEN}")
    try:
        train(config, accelerator)
    except DataError as error:
        raise SystemExit(f"error: {error}") from error
    finally:
        accelerator.end_training()


def train(config: TrainConfig, accelerator: Accelerator) -> None:
    """Train, keep the best epoch by validation macro-F1, and write the checkpoint folder."""
    set_seed(config.seed)
    sizes, output_dir = config.epoch_sizes, Path(config.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    if config.resume and is_finished(output_dir):
        accelerator.print(f"The run in {output_dir} is finished; there is nothing to go on with.")
        return
    if not config.resume and accelerator.is_main_process:
        start_afresh(output_dir)
    scans, groups, splits = load_data(config, accelerator)
    sizes_of_splits = {name: len(indices) for name, indices in vars(splits).items()}
    split = SplitIdentity(config.split, config.seed, scans.fingerprint, sizes_of_splits)
    earlier = earlier_run(config.init_weights, split)
    teacher = load_teacher(config.teacher, split) if config.teacher else None
    with accelerator.main_process_first():
        model, start = build_model(
            config.model,
            len(scans.label_names),
            json.loads(config.model_args),
            config.drop_rate,
            config.pretrained,
            config.init_weights,
        )
    model = model.to(accelerator.device)  # before the moving average copies it
    accelerator.print(f"Start: {start}")
    mean, std = model.pretrained_cfg["mean"], model.pretrained_cfg["std"]
    preprocessing = Preprocessing((sizes[-1], sizes[-1]), tuple(mean), tuple(std))
    to_input = ToInput(preprocessing, accelerator.device)

    sampler = EpochSampler(splits.train, groups, config.one_per_picture, config.seed)
    boxes = load_boxes(config.boxes, scans.files) if config.boxes else None
    data = {size: ScanDataset(scans.pixels, scans.labels, size, boxes) for size in set(sizes)}
    loaders = {
        size: accelerator.prepare(train_loader(dataset, sampler, config.batch_size)) for size, dataset in data.items()
    }
    validation = accelerator.prepare(evaluation_loader(data[sizes[-1]], splits.validation, 64))

    optimizer = create_optimizer_v2(model, "adamw", lr=config.learning_rate, weight_decay=config.weight_decay)
    steps_per_epoch = -(-len(loaders[sizes[-1]]) // config.gradient_accumulation_steps)
    # Not prepared: accelerate would step it once per process, while we count our own steps.
    scheduler = make_scheduler(config, optimizer, steps_per_epoch * len(sizes))
    ema = ModelEmaV3(model, decay=config.ema_decay, use_warmup=True) if config.ema_decay else None
    model, optimizer = accelerator.prepare(model, optimizer)
    averaged = ema.module if ema else accelerator.unwrap_model(model)
    place = BoxLoss(accelerator.unwrap_model(model), preprocessing) if config.boxes else None
    loss_function = make_loss(config, scans, sampler, teacher, place).to(accelerator.device)

    progress = Progress()
    accelerator.register_for_checkpointing(progress, scheduler, *([ema] if ema else []))
    if config.resume and load_state(accelerator, output_dir):
        accelerator.print(f"Going on after epoch {progress.epoch}.")
    while progress.epoch < len(sizes) and not progress.has_stalled(config.patience):
        started, epoch = time.perf_counter(), progress.epoch
        sampler.epoch = epoch
        row = {"epoch": epoch + 1, "size": sizes[epoch]}
        row |= train_epoch(
            accelerator, model, ema, optimizer, scheduler, loaders[sizes[epoch]], loss_function, to_input, config, epoch
        )
        row |= validate(accelerator, averaged, validation, to_input)
        row["seconds"] = time.perf_counter() - started
        progress.history.append(row)
        progress.epoch += 1
        accelerator.print(describe(row, len(sizes)), flush=True)
        if progress.best is row and accelerator.is_main_process:
            weights = {name: value.contiguous() for name, value in averaged.state_dict().items()}
            save_file(weights, output_dir / "best.safetensors")
        save_state(accelerator, output_dir, progress.epoch)
    # Here, because it brings evaluate and matplotlib, and a wrong setting should be told within a second.
    from training.finish import finish

    finish(config, accelerator, averaged, preprocessing, scans, groups, splits, progress.history, start, earlier)


def load_data(config: TrainConfig, accelerator: Accelerator) -> tuple[Scans, np.ndarray, Splits]:
    """Decode the pictures, find the duplicates, draw the splits: the same in every process."""
    with accelerator.main_process_first():
        scans = load_scans(config.data_dir, config.dataset, config.kaggle, size=config.epoch_sizes[-1])
    groups = [duplicate_groups(scans.thumbnails) if accelerator.is_main_process else None]
    (groups,) = broadcast_object_list(groups)
    splits = split_scans(scans, groups, config.split, config.seed, config.validation_fraction, config.test_fraction)
    for file, reason in scans.left_out:
        accelerator.print(f"left out: {file} ({reason})")
    for name, indices in vars(splits).items():
        counts = np.bincount(scans.labels[indices], minlength=len(scans.label_names))
        per_class = ", ".join(f"{label} {count}" for label, count in zip(scans.label_names, counts, strict=True))
        pictures = len(np.unique(groups[indices]))
        accelerator.print(f"{name}: {len(indices)} images of {pictures} different pictures ({per_class})")
    return scans, groups, splits


def make_scheduler(
    config: TrainConfig, optimizer: torch.optim.Optimizer, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    if config.schedule == "one_cycle":
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer, config.learning_rate, total_steps=steps + 1, pct_start=config.warmup_fraction
        )
    return get_cosine_schedule_with_warmup(optimizer, round(steps * config.warmup_fraction), steps)


def make_loss(
    config: TrainConfig,
    scans: Scans,
    sampler: EpochSampler,
    teacher: torch.nn.Module | None,
    place: BoxLoss | None,
) -> Loss:
    counts = torch.tensor(np.bincount(scans.labels[list(sampler)], minlength=len(scans.label_names)))
    class_weights = counts.sum() / (len(counts) * counts) if config.class_weights else None
    return Loss(class_weights, config.label_smoothing, teacher, config.teacher_share, place, config.box_weight)


def describe(row: dict, epochs: int) -> str:
    return (
        f"epoch {row['epoch']}/{epochs} at {row['size']} px: training loss {row['train_loss']:.3f}, "
        f"accuracy {row['train_accuracy']:.3f}; validation loss {row['validation_loss']:.3f}, "
        f"accuracy {row['validation_accuracy']:.4f}, macro-F1 {row['validation_macro_f1']:.4f}; "
        f"{row['images_per_second']:.1f} images/s, {row['data_wait_share']:.1%} of the time waiting for data"
    )


if __name__ == "__main__":
    main()
