"""Started by torchrun on two processes: prints what they share, as JSON, and then runs the training command."""

import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import torch
from accelerate.utils import gather_object

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.helpers.training_runs import start
from training.data.loader import Batch, build_loaders
from training.data.pool import make_pool
from training.data.sources import DataError
from training.learning.loop import train_epoch
from training.learning.settings import TrainConfig

LABELS = torch.arange(8) % 4


def statistics(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([value for name, value in model.named_buffers() if "running" in name]).clone()


def apart(statistics: torch.Tensor) -> float:
    """Return the largest difference between the two processes."""
    first, second = (torch.tensor(values) for values in gather_object([statistics.tolist()]))
    return (first - second).abs().max().item()


def check(data_dir: str) -> None:
    settings = TrainConfig(
        "not-written", data_dir=data_dir, model="test_resnet", pretrained=False, sizes="32:1", batch_size=8,
        validation_fraction=0.25, ema_decay=0.9, augmentation=0,
    )  # fmt: skip
    training, _, data = start(settings)
    accelerator = training.accelerator
    # One process sees dark images, the other bright ones, as no shuffling would distribute them.
    brightness = (20, 230)[accelerator.process_index]
    batches = [Batch((brightness + 20 * torch.randn(8, 1, 32, 32)).clamp(0, 255).byte(), LABELS, LABELS)] * 6
    models, seen = (accelerator.unwrap_model(training.model), training.ema.module), []
    models[0].register_forward_hook(lambda *_: seen.append(statistics(models[0])))
    train_epoch(training, batches, 0)
    found = {"apart_before": apart(seen[-1]), "apart_after": max(apart(statistics(model)) for model in models)}
    try:
        settings = replace(settings, batch_size=40)
        build_loaders(settings, make_pool(settings, data, print), data.splits.validation, accelerator)
    except DataError as error:
        found["refusal"] = str(error)
    if accelerator.is_main_process:
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    check(sys.argv[sys.argv.index("--data-dir") + 1])
    runpy.run_path("training/train.py", run_name="__main__")
