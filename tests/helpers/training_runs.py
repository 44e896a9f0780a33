"""Trainings for tests: the command in processes of its own, or the objects of a run in this process."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState

from training.data.loader import Loaders, build_loaders
from training.data.pool import make_pool
from training.data.splits import TrainingData
from training.learning.loop import Training
from training.learning.model import build_model, load_teacher
from training.learning.settings import TrainConfig
from training.train import load_data, prepare

ROOT = Path(__file__).parents[2]
# One thread: runs that are compared bit by bit must add up their numbers in one order.
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
SETTINGS = shlex.split(
    "--model test_resnet --no-pretrained --sizes 32:2,48:2 --batch-size 8 --learning-rate 0.01 --augmentation 0.3 "
    "--ema-decay 0.9 --validation-fraction 0.25 --seed 1"
)


def command(data: Path, output: Path, *more: str) -> list[str]:
    """Return the training command, to which a launcher may be added."""
    return ["training/train.py", "--data-dir", str(data), "--output-dir", str(output), *SETTINGS, *more]


def launched(script: list[str]) -> list[str]:
    """Return the command that runs a script with accelerate on one process."""
    return [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", *script]


def on_two_processes(script: list[str]) -> list[str]:
    """Return the command that runs a script on two processes that talk over loopback."""
    local = ["--standalone", "--local-addr", "127.0.0.1", "--nproc_per_node", "2"]
    return [sys.executable, "-m", "torch.distributed.run", *local, *script]


def run(arguments: list[str]) -> subprocess.CompletedProcess:
    """Run a command from the root of the repository."""
    return subprocess.run(
        arguments, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=280, check=False
    )


def new_accelerator(settings: TrainConfig) -> Accelerator:
    """Return an accelerator on the CPU as the command makes it; accelerate keeps one for each process otherwise."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    return Accelerator(
        cpu=True,
        mixed_precision=settings.mixed_precision,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
    )


def start(settings: TrainConfig) -> tuple[Training, Loaders, TrainingData]:
    """Return everything the command has before its first epoch."""
    accelerator = new_accelerator(settings)
    data = load_data(settings, accelerator)
    model, _ = build_model(settings, data)
    pool = make_pool(settings, data, print)
    loaders = build_loaders(settings, pool, data.splits.validation, accelerator)
    teacher = load_teacher(settings, data.identity)
    return prepare(settings, accelerator, model, pool, loaders, teacher), loaders, data
