"""One epoch of training, and one of validation."""

import copy
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from sklearn.metrics import f1_score
from timm.utils import ModelEmaV3, distribute_bn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from brain_xai.preprocess import Preprocessing
from training.data.augment import augment
from training.data.counterfactuals import Counterfactuals
from training.data.loader import Normalize
from training.data.styles import restyle
from training.learning.losses import Loss
from training.learning.settings import TrainConfig
from training.learning.state import BEST

# Reading the numbers for the progress bar waits for the GPU, so they are read only every few steps.
LOG_INTERVAL = 20


@dataclass(frozen=True)
class Training:
    """Everything that an epoch needs; `model` and `optimizer` are prepared by `accelerator`.

    `ema` is the moving average of the weights, None if it is turned off. `preprocessing` is that of the last epochs
    and of the checkpoint.
    """

    settings: TrainConfig
    accelerator: Accelerator
    model: torch.nn.Module
    ema: ModelEmaV3 | None
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    criterion: Loss
    preprocessing: Preprocessing
    normalize: Normalize

    @property
    def averaged(self) -> torch.nn.Module:
        """The model that is validated and published: the moving average if there is one."""
        return self.ema.module if self.ema else self.accelerator.unwrap_model(self.model)

    def save_best(self, folder: Path) -> None:
        """Write the weights of the best epoch so far into `folder`, in the main process."""
        if self.accelerator.is_main_process:
            weights = {name: value.contiguous() for name, value in self.averaged.state_dict().items()}
            partial = folder / f"{BEST}.partial"
            save_file(weights, partial)
            partial.replace(folder / BEST)  # at once: a run killed at any moment leaves a whole file

    def load_best(self, folder: Path) -> torch.nn.Module:
        """Return the averaged model with the weights of the best epoch, in eval mode and free of all training hooks."""
        if self.criterion.box_loss is not None:
            self.criterion.box_loss.remove_hook()
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)  # takes off the mixed precision
        self.averaged.load_state_dict(load_file(folder / BEST))
        return self.averaged.eval()


def train_epoch(
    training: Training, loader: DataLoader, epoch: int, counterfactuals: Counterfactuals | None = None
) -> dict:
    """Train on every batch once; returns loss, accuracy, images per second and the fraction of time without a batch."""
    accelerator, settings = training.accelerator, training.settings
    training.model.train()
    totals = torch.zeros(3, device=accelerator.device)  # images, sum of their losses, correct answers
    seen, waited, started = 0, 0.0, time.perf_counter()
    ready = started
    with _progress_bar(accelerator, len(loader), epoch) as bar:
        for step, (pixels, labels, indices) in enumerate(loader):
            # Seeding every step makes a resumed run repeat exactly what an uninterrupted one does.
            torch.manual_seed(hash((settings.seed, epoch, step, accelerator.process_index)) % 2**63)
            changed = pixels.float() / 255
            if counterfactuals is not None:
                changed, labels = counterfactuals(changed, labels, indices, settings.counterfactuals)
            changed = augment(restyle(changed, settings.styles), settings.augmentation)
            images, masks = changed.split([1, changed.shape[1] - 1], dim=1)
            waited += time.perf_counter() - ready
            loss, logits = _step(training, images, masks, labels)
            correct = training.criterion.is_right(logits.argmax(dim=1), labels).sum()
            totals += torch.stack([torch.full_like(loss, len(labels)), loss * len(labels), correct])
            seen += len(labels)
            ready = time.perf_counter()
            bar.update()
            if step % LOG_INTERVAL == 0:
                count, loss_sum, hits = totals.tolist()
                bar.set_postfix(loss=loss_sum / count, accuracy=hits / count, images_per_s=seen / (ready - started))
    count, loss_sum, hits = accelerator.reduce(totals).tolist()
    seconds = time.perf_counter() - started
    _share_batch_norm(training)
    return {
        "train_loss": loss_sum / count,
        "train_accuracy": hits / count,
        "images_per_second": count / seconds,
        "data_wait_share": waited / seconds,
    }


def _step(
    training: Training, images: torch.Tensor, masks: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Do one forward and backward pass; returns the detached loss and logits."""
    accelerator, model = training.accelerator, training.model
    with accelerator.accumulate(model):
        logits = model(training.normalize(images))
        loss = training.criterion(logits, labels, images, masks)
        accelerator.backward(loss)
        if accelerator.sync_gradients:
            accelerator.clip_grad_norm_(model.parameters(), training.settings.clip_norm)
        training.optimizer.step()
        training.optimizer.zero_grad()
    # With fp16 the optimizer skips a step whose gradients overflow.
    if accelerator.sync_gradients and not accelerator.optimizer_step_was_skipped:
        training.scheduler.step()
        if training.ema is not None:
            # Without the step timm leaves out its warm-up, and the average keeps the random initialization.
            training.ema.update(accelerator.unwrap_model(model), step=training.scheduler.last_epoch)
    return loss.detach(), logits.detach()


def _share_batch_norm(training: Training) -> None:
    """Average the running statistics of batch normalization over the processes.

    Each process has measured them on its own images. Without this, each would validate a different model, of which
    only that of the main process is saved.
    """
    accelerator = training.accelerator
    if accelerator.num_processes > 1:
        distribute_bn(accelerator.unwrap_model(training.model), accelerator.num_processes, reduce=True)
        if training.ema is not None:
            distribute_bn(training.ema.module, accelerator.num_processes, reduce=True)


@torch.inference_mode()
def validate(training: Training, loader: DataLoader) -> dict:
    """Return loss, accuracy and macro-F1 of the averaged model on the validation split."""
    accelerator, gathered = training.accelerator, []
    with _evaluating(training.averaged) as model:
        for pixels, labels, _ in loader:
            with accelerator.autocast():
                logits = model(training.normalize(pixels[:, :1].float() / 255))
            gathered.append(accelerator.gather_for_metrics((logits.float(), labels)))
    logits, labels = (torch.cat(parts).cpu() for parts in zip(*gathered, strict=True))
    predicted = logits.argmax(dim=1)
    return {
        "validation_loss": F.cross_entropy(logits, labels).item(),
        "validation_accuracy": (predicted == labels).float().mean().item(),
        "validation_macro_f1": float(f1_score(labels, predicted, average="macro")),
    }


@torch.inference_mode()
def validate_kinds(training: Training, loaders: Mapping[str, DataLoader]) -> dict:
    """Return the share of right answers on each kind of scan from other sources and their mean, {} without any."""
    accelerator, shares = training.accelerator, {}
    with _evaluating(training.averaged) as model:
        for kind, loader in loaders.items():
            right = []
            for pixels, labels, _ in loader:
                with accelerator.autocast():
                    answers = model(training.normalize(pixels[:, :1].float() / 255)).argmax(dim=1)
                right.append(accelerator.gather_for_metrics(training.criterion.is_right(answers, labels).float()))
            shares[kind] = torch.cat(right).mean().item()
    return {"validation_away": sum(shares.values()) / len(shares), "validation_kinds": shares} if shares else {}


def model_only_throughput(training: Training, steps: int = 5) -> float:
    """Return training images per second of the bare model on one batch that is already there (best of `steps`)."""
    device, batch_size = training.accelerator.device, training.settings.batch_size
    model = copy.deepcopy(training.averaged).train()
    optimizer = torch.optim.AdamW(model.parameters())
    pixel_values = torch.randn(batch_size, 3, *training.preprocessing.size, device=device)
    pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
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


@contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    was_training = model.training
    try:
        yield model.eval()
    finally:
        model.train(was_training)


def _progress_bar(accelerator: Accelerator, steps: int, epoch: int) -> tqdm:
    return tqdm(total=steps, desc=f"epoch {epoch + 1}", leave=False, disable=not accelerator.is_main_process)
