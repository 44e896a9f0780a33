"""One epoch of training, and one of validation."""

import time

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from sklearn.metrics import f1_score
from timm.utils import ModelEmaV3
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from training.data.augment import augment
from training.data.loader import ToInput
from training.learning.losses import Loss
from training.learning.settings import TrainConfig


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
