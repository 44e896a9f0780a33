"""Train a timm model on brain-MRI slices and write a checkpoint folder.

accelerate launch training/train.py --data-dir DIR --model efficientnet_b0 --output-dir runs/b0
"""

import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

# `accelerate launch training/train.py` puts only training/ on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, set_seed
from huggingface_hub import get_token
from safetensors.torch import save_file
from sklearn.metrics import f1_score
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import HfArgumentParser, get_cosine_schedule_with_warmup

from brain_xai.preprocess import Preprocessing
from training.augment import augment
from training.boxes import PlaceLoss, load_boxes
from training.data import DataError, Scans, Splits, load_scans, split_scans
from training.duplicates import duplicate_groups
from training.hub import NO_TOKEN
from training.loader import EpochSampler, ScanDataset, ToInput, evaluation_loader, train_loader
from training.model import Loss, build_model, earlier_run, load_teacher
from training.resume import is_finished, load_state, save_state, start_afresh


@dataclass(frozen=True)
class TrainConfig:
    """Every setting of a training run."""

    output_dir: str = field(metadata={"help": "Folder for the checkpoint; made if missing."})
    data_dir: str | None = field(default=None, metadata={"help": "Folder with Training/<class> and Testing/<class>."})
    dataset: str | None = field(default=None, metadata={"help": "Data set on the Hub, instead of --data-dir."})
    kaggle: str | None = field(default=None, metadata={"help": "Data set on Kaggle, owner/name (needs kagglehub)."})
    split: Literal["purged", "official", "grouped"] = "purged"
    validation_fraction: float = field(default=0.1, metadata={"help": "Share of the training pictures held out."})
    test_fraction: float = field(default=0.15, metadata={"help": "Share of all pictures, with --split grouped."})
    no_tumor_label: str = field(default="notumor", metadata={"help": "Class of healthy heads, for the miss rate."})
    seed: int = 0

    model: str = field(default="efficientnet_b0", metadata={"help": "Any timm architecture."})
    model_args: str = field(default="{}", metadata={"help": 'JSON for timm.create_model: {"output_stride": 16}.'})
    pretrained: bool = field(default=True, metadata={"help": "Start from timm's weights on the Hub."})
    init_weights: str | None = field(default=None, metadata={"help": "Start from what fits of a safetensors file."})
    teacher: str | None = field(default=None, metadata={"help": "Checkpoint of the same split to learn from."})
    teacher_share: float = field(default=0.7, metadata={"help": "Share of the teacher in the loss."})
    boxes: str | None = field(default=None, metadata={"help": "CSV of tumour boxes that evidence should come from."})
    box_weight: float = field(default=0.3, metadata={"help": "Weight of evidence outside the boxes in the loss."})

    sizes: str = field(default="128:10,160:6", metadata={"help": "Stages as size:epochs; sizes must not shrink."})
    batch_size: int = field(default=32, metadata={"help": "Pictures per process and step."})
    gradient_accumulation_steps: int = 1
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    schedule: Literal["cosine", "one_cycle"] = "cosine"
    warmup_fraction: float = field(default=0.1, metadata={"help": "Share of the steps with a rising learning rate."})
    label_smoothing: float = 0.05
    class_weights: bool = field(default=True, metadata={"help": "Weigh classes by one over their frequency."})
    one_per_picture: bool = field(default=True, metadata={"help": "One of each picture's copies per epoch."})
    augmentation: float = field(default=1.0, metadata={"help": "Strength of the random changes; 0 turns them off."})
    drop_rate: float = field(default=0.1, metadata={"help": "Dropout before the last layer."})
    ema_decay: float = field(default=0.998, metadata={"help": "Moving average of the weights; 0 turns it off."})
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    patience: int = field(default=10, metadata={"help": "Epochs without a better macro-F1 before stopping."})
    resume: bool = field(default=False, metadata={"help": "Go on after the last finished epoch in --output-dir."})

    push_to_hub: str | None = field(default=None, metadata={"help": "Publish the checkpoint as org/name at the end."})
    private: bool = field(default=False, metadata={"help": "Make a new repository on the Hub private."})
    revision: str | None = field(default=None, metadata={"help": "Branch to publish on; made if missing."})

    @property
    def epoch_sizes(self) -> list[int]:
        """Picture size of each epoch; raises `DataError`."""
        try:
            stages = [tuple(map(int, stage.split(":"))) for stage in self.sizes.split(",")]
            sizes = [size for size, epochs in stages for _ in range(epochs)]
        except ValueError as error:
            raise DataError(f"--sizes {self.sizes} is not of the form 128:10,160:6.") from error
        if not sizes or sizes != sorted(sizes):
            raise DataError(f"--sizes {self.sizes} must name at least one epoch, and sizes must not shrink.")
        return sizes


class Progress:
    """How far a run has come: what resuming needs beside weights, optimiser and schedule."""

    def __init__(self) -> None:
        self.epoch, self.history = 0, []

    @property
    def best(self) -> dict:
        return max(self.history, key=lambda row: row["validation_macro_f1"])

    def has_stalled(self, patience: int) -> bool:
        return bool(self.history) and self.epoch - self.best["epoch"] >= patience

    def state_dict(self) -> dict:
        return dict(vars(self))

    def load_state_dict(self, state: dict) -> None:
        vars(self).update(state)


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
    split = (config.split, config.seed, scans.fingerprint, sizes_of_splits)
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
    place = PlaceLoss(accelerator.unwrap_model(model), preprocessing) if config.boxes else None
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
    place: PlaceLoss | None,
) -> Loss:
    counts = torch.tensor(np.bincount(scans.labels[list(sampler)], minlength=len(scans.label_names)))
    class_weights = counts.sum() / (len(counts) * counts) if config.class_weights else None
    return Loss(class_weights, config.label_smoothing, teacher, config.teacher_share, place, config.box_weight)


def train_epoch(
    accelerator: Accelerator,
    model: torch.nn.Module,
    ema: ModelEmaV3 | None,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    loader: DataLoader,
    loss_function: Loss,
    to_input: ToInput,
    config: TrainConfig,
    epoch: int,
) -> dict:
    """Go once through the training pictures; returns loss, accuracy, speed and the share of time without a batch."""
    model.train()
    seen, loss_sum, correct, waited = 0, 0.0, 0, 0.0
    started = ready = time.perf_counter()
    bar = tqdm(total=len(loader), desc=f"epoch {epoch + 1}", leave=False, disable=not accelerator.is_main_process)
    for step, (pixels, labels, _) in enumerate(loader):
        # Seeding every step makes a resumed run repeat exactly what a run never killed did.
        torch.manual_seed(hash((config.seed, epoch, step, accelerator.process_index)) % 2**63)
        images, masks = augment(pixels.float() / 255, config.augmentation).split([1, pixels.shape[1] - 1], dim=1)
        pixel_values = to_input(images)
        waited += time.perf_counter() - ready
        with accelerator.accumulate(model):
            logits = model(pixel_values)
            loss = loss_function(logits, labels, pixel_values, masks)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            optimizer.zero_grad()
        if accelerator.sync_gradients:
            scheduler.step()
            if ema is not None:
                # Without the step timm leaves out its warm-up, and the average holds on to the random start.
                ema.update(accelerator.unwrap_model(model), step=scheduler.last_epoch)
        seen, loss_sum = seen + len(labels), loss_sum + loss.item() * len(labels)
        correct += (logits.argmax(dim=1) == labels).sum().item()
        ready = time.perf_counter()
        bar.update()
        speed = seen / (ready - started)
        bar.set_postfix(loss=f"{loss_sum / seen:.3f}", accuracy=f"{correct / seen:.3f}", images_per_s=f"{speed:.0f}")
    bar.close()
    seconds = time.perf_counter() - started
    totals = accelerator.reduce(torch.tensor([seen, loss_sum, correct], device=accelerator.device))
    seen, loss_sum, correct = totals.tolist()
    return {
        "train_loss": loss_sum / seen,
        "train_accuracy": correct / seen,
        "images_per_second": seen / seconds,
        "data_wait_share": waited / seconds,
    }


@torch.inference_mode()
def validate(accelerator: Accelerator, model: torch.nn.Module, loader: DataLoader, to_input: ToInput) -> dict:
    """Return loss, accuracy and macro-F1 on the validation split."""
    was_training = model.training
    model.eval()
    gathered = []
    for pixels, labels, indices in loader:
        with accelerator.autocast():
            logits = model(to_input(pixels[:, :1].float() / 255))
        gathered.append(accelerator.gather((logits.float(), labels, indices)))
    model.train(was_training)
    logits, labels, indices = (torch.cat(parts).cpu() for parts in zip(*gathered, strict=True))
    # Several processes fill up their last batch with pictures seen before. `gather_for_metrics` would take the size of
    # that batch from the whole data set, of which this split is a part, and drop pictures.
    once = np.unique(indices, return_index=True)[1]
    logits, labels = logits[once], labels[once]
    predicted = logits.argmax(dim=1)
    return {
        "validation_loss": F.cross_entropy(logits, labels).item(),
        "validation_accuracy": (predicted == labels).float().mean().item(),
        "validation_macro_f1": float(f1_score(labels, predicted, average="macro")),
    }


def describe(row: dict, epochs: int) -> str:
    return (
        f"epoch {row['epoch']}/{epochs} at {row['size']} px: training loss {row['train_loss']:.3f}, "
        f"accuracy {row['train_accuracy']:.3f}; validation loss {row['validation_loss']:.3f}, "
        f"accuracy {row['validation_accuracy']:.4f}, macro-F1 {row['validation_macro_f1']:.4f}; "
        f"{row['images_per_second']:.1f} images/s, {row['data_wait_share']:.1%} of the time waiting for data"
    )


if __name__ == "__main__":
    main()
