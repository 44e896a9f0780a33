"""TrainConfig: every setting of a training run, and the one place of its defaults."""

import os
import re
import shlex
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from training.data.sources import DataError

# Where a run writes and what it publishes: fields that do not change the result.
OUTPUT_FIELDS = ("output_dir", "resume", "push_to_hub", "private", "revision")
# Fields that may hold a path of this machine. Only its last part is published.
PATH_FIELDS = ("output_dir", "data_dir", "init_weights", "teacher", "boxes")
CHECKPOINT_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+(@\S+)?")


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


def settings_record(settings: TrainConfig) -> dict:
    """Return the settings that determine the result, without local paths, for config.json."""
    return {name: _published(name, value) for name, value in asdict(settings).items() if name not in OUTPUT_FIELDS}


def command_of(settings: TrainConfig) -> str:
    """Return the command line that repeats a run: every setting that differs from its default, without local paths.

    `--resume` is left out, because a resumed run ends like an uninterrupted one.
    """
    words = ["accelerate", "launch", "training/train.py"]
    for setting in fields(settings):
        value, flag = getattr(settings, setting.name), setting.name.replace("_", "-")
        if value == setting.default or setting.name == "resume":
            continue
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", str(_published(setting.name, value))]
    return shlex.join(words)


def command_without_paths(command: str) -> str:
    """Shorten the local paths in a recorded training command, one command per line, to their last parts."""
    names = {f"--{name.replace('_', '-')}": name for name in PATH_FIELDS}
    lines = []
    for line in command.splitlines():
        words = [part for word in shlex.split(line) for part in (word.split("=", 1) if word[:2] == "--" else [word])]
        flags = [names.get(word.replace("_", "-")) for word in ["", *words[:-1]]]
        lines.append(shlex.join(_published(flag, word) for flag, word in zip(flags, words, strict=True)))
    return "\n".join(lines)


def _published(name: str | None, value: Any) -> Any:
    """Return what is published of a setting: of a local path only its last part, as folders may hold a user name."""
    if name not in PATH_FIELDS or value is None:
        return value
    if name == "teacher" and CHECKPOINT_ID.fullmatch(value) and not Path(value).exists():
        return value
    return Path(os.path.abspath(value)).name
