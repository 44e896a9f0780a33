"""TrainConfig: every setting of a training run, and the one place of its defaults."""

from dataclasses import dataclass, field
from typing import Literal

from training.data.sources import DataError


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
