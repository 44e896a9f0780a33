"""TrainConfig: every setting of a training run, and the one place of its defaults."""

import json
import os
import re
import shlex
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from training.data.sources import DataError
from training.data.splits import parse_split

# Where a run writes and what it publishes: fields that do not change the result.
OUTPUT_FIELDS = ("output_dir", "resume", "test", "report_to", "country", "push_to_hub", "private", "revision")
# Fields that may hold a path of this machine. Only its last part is published.
PATH_FIELDS = ("output_dir", "data_dir", "source", "init_weights", "teacher", "boxes")
CHECKPOINT_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+(@\S+)?")


@dataclass(frozen=True)
class TrainConfig:
    """Every setting of a training run; raises `DataError` if one cannot be read."""

    output_dir: str = field(metadata={"help": "Folder for the checkpoint; created if missing."})
    data_dir: str | None = field(default=None, metadata={"help": "Folder with Training/<class> and Testing/<class>."})
    dataset: str | None = field(default=None, metadata={"help": "Data set on the Hub, instead of --data-dir."})
    kaggle: str | None = field(default=None, metadata={"help": "Data set on Kaggle, owner/name (needs kagglehub)."})
    split: str = field(default="purged", metadata={"help": "purged, official, grouped, or one of K folds: fold:1/5."})
    validation_fraction: float = field(default=0.1, metadata={"help": "Fraction of the training images held out."})
    test_fraction: float = field(default=0.15, metadata={"help": "Fraction of all images, with --split grouped."})
    no_tumor_label: str = field(default="notumor", metadata={"help": "Class of healthy heads, for the miss rate."})
    seed: int = 0
    frame: bool = field(
        default=False, metadata={"help": "Crop every image to the head and stretch it, in use as well."}
    )
    source: list[str] = field(
        default_factory=list,
        metadata={
            "help": "More folders: DIR:folder=class,hold=0.3,patient=REGEX; the class tumor is any with a tumor, "
            "hold=1/2 the first of two parts."
        },
    )

    model: str = field(
        default="efficientnet_b0", metadata={"help": "Any timm architecture, or one of brain_xai/small_cnns.py."}
    )
    model_args: str = field(default="{}", metadata={"help": 'JSON for timm.create_model: {"output_stride": 16}.'})
    pretrained: bool = field(default=True, metadata={"help": "Start from timm's weights on the Hub."})
    init_weights: str | None = field(
        default=None, metadata={"help": "Safetensors file to start from; tensors that do not fit are skipped."}
    )
    teacher: str | None = field(default=None, metadata={"help": "Checkpoint of the same split to learn from."})
    teacher_share: float = field(default=0.7, metadata={"help": "Weight of the teacher in the loss, 0 to 1."})
    teacher_temperature: float = field(default=2.0, metadata={"help": "Divides the logits of teacher and student."})
    boxes: str | None = field(default=None, metadata={"help": "CSV of tumor boxes that evidence should come from."})
    box_weight: float = field(default=0.3, metadata={"help": "Weight of the box loss."})

    sizes: str = field(default="128:10,160:6", metadata={"help": "Stages as size:epochs; sizes must not shrink."})
    batch_size: int = field(default=32, metadata={"help": "Images per process and step."})
    evaluation_batch_size: int = field(default=64, metadata={"help": "Images per process in validation and test."})
    gradient_accumulation_steps: int = 1
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    clip_norm: float = field(default=5.0, metadata={"help": "Largest norm of the gradient."})
    schedule: Literal["cosine", "linear"] = field(default="cosine", metadata={"help": "Decay after the warm-up."})
    warmup_fraction: float = field(default=0.1, metadata={"help": "Fraction of the steps with a rising rate."})
    label_smoothing: float = 0.05
    class_weights: bool = field(default=True, metadata={"help": "Weight classes by their inverse frequency."})
    one_per_picture: bool = field(default=True, metadata={"help": "Per epoch, use one copy of each distinct image."})
    augmentation: float = field(default=1.0, metadata={"help": "Strength of the augmentation; 0 turns it off."})
    styles: float = field(default=0.0, metadata={"help": "Random convolutions and skull stripping; 1 is usual."})
    counterfactuals: float = field(default=0.0, metadata={"help": "Tumors removed and pasted; needs --boxes."})
    drop_rate: float = field(default=0.1, metadata={"help": "Dropout before the last layer."})
    ema_decay: float = field(default=0.998, metadata={"help": "Moving average of the weights; 0 turns it off."})
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    keep: Literal["best", "last"] = field(
        default="best", metadata={"help": "Epoch to publish: the best on validation, or the last, if that is noisy."}
    )
    patience: int = field(default=10, metadata={"help": "Epochs without a better macro-F1 before stopping."})
    resume: bool = field(default=False, metadata={"help": "Continue after the last finished epoch in --output-dir."})
    test: bool = field(default=True, metadata={"help": "Write the checkpoint at the end, measured on the test split."})

    report_to: Literal["none", "tensorboard", "trackio", "wandb", "mlflow"] = field(
        default="none", metadata={"help": "Track the run on this disk, in the folder tracking beside --output-dir."}
    )
    country: str | None = field(
        default=None, metadata={"help": "Measure energy and CO2 for the power of a country such as DEU (codecarbon)."}
    )

    push_to_hub: str | None = field(default=None, metadata={"help": "Publish the checkpoint as org/name at the end."})
    private: bool = field(default=False, metadata={"help": "Make a new repository on the Hub private."})
    revision: str | None = field(default=None, metadata={"help": "Branch to publish on; created if missing."})

    def __post_init__(self) -> None:
        """Fail before the data is read, not after."""
        parse_split(self.split)
        _parse_sizes(self.sizes)
        _parse_model_args(self.model_args)
        if self.counterfactuals and not self.boxes:
            raise DataError("--counterfactuals needs --boxes: it must know where the tumors are.")

    @property
    def epoch_sizes(self) -> list[int]:
        """Image size of each epoch in pixels."""
        return _parse_sizes(self.sizes)

    @property
    def timm_args(self) -> dict:
        """Keyword arguments for `timm.create_model`."""
        return _parse_model_args(self.model_args)


def _parse_sizes(text: str) -> list[int]:
    try:
        stages = [tuple(map(int, stage.split(":"))) for stage in text.split(",")]
        sizes = [size for size, epochs in stages for _ in range(epochs)]
    except ValueError as error:
        raise DataError(f"--sizes {text} is not of the form 128:10,160:6.") from error
    if not sizes or sizes != sorted(sizes):
        raise DataError(f"--sizes {text} must name at least one epoch, and sizes must not shrink.")
    return sizes


def _parse_model_args(text: str) -> dict:
    try:
        arguments = json.loads(text)
    except ValueError as error:
        raise DataError(f"--model-args {text} is not JSON: {error}.") from error
    if not isinstance(arguments, dict):
        raise DataError(f'--model-args {text} is not a JSON object such as {{"output_stride": 16}}.')
    return arguments


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
        if isinstance(value, list):
            words += [f"--{flag}", *_published(setting.name, value)] if value else []
        elif isinstance(value, bool):
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
        flags, previous = [], ""
        for word in words:
            flags.append(names.get(previous.replace("_", "-")) if word[:2] != "--" else None)
            # --source takes several values, every other flag one.
            previous = previous if previous == "--source" and word[:2] != "--" else word
        lines.append(shlex.join(_published(flag, word) for flag, word in zip(flags, words, strict=True)))
    return "\n".join(lines)


def _published(name: str | None, value: Any) -> Any:
    """Return what is published of a setting: of a local path only its last part, as folders may hold a user name."""
    if name not in PATH_FIELDS or value is None:
        return value
    if isinstance(value, list):
        return [_published(name, single) for single in value]
    if name == "source":
        folder, colon, options = value.partition(":")
        return Path(os.path.abspath(folder)).name + colon + options
    if name == "teacher" and CHECKPOINT_ID.fullmatch(value) and not Path(value).exists():
        return value
    return Path(os.path.abspath(value)).name
