"""Small synthetic scans with a box around every mark, and the folder of a run on them."""

import csv
import json
from pathlib import Path

import timm
import torch
from PIL import ImageOps
from torch import nn

from brain_xai.checkpoint.folder import save_checkpoint
from brain_xai.preprocess import Preprocessing
from tests.helpers.nets import PLAIN
from tests.helpers.scans import LABELS, MARKS, make_scan, write_scans
from training.data.duplicate_groups import duplicate_groups
from training.data.sources import load_scans
from training.data.splits import split_scans

SIDE = 64
SETTINGS = {"validation_fraction": 0.25, "test_fraction": 0.15}


def box_of(label, mirrored=False):
    """A box around every possible mark of a class, in fractions: the mark moves by up to 3 pixels, its radius is 5."""
    x, y = MARKS[label]
    x = SIDE - 1 - x if mirrored else x
    return [(x - 8) / SIDE, (y - 8) / SIDE, (x + 9) / SIDE, (y + 9) / SIDE]


def write_boxed_scans(root: Path) -> Path:
    """Synthetic scans; every second test image has two copies in Training, one of them mirrored, and all have boxes."""
    write_scans(root, train=8, test=6)
    rows = [
        (f"Training/{label}/{label}_{seed:03d}.png", *box_of(label)) for label in MARKS for seed in range(8)
    ]  # fmt: skip
    for label in MARKS:
        for seed in (8, 10, 12):
            scan = make_scan(label, seed)
            for name, image, mirrored in (("copy", scan, False), ("mirrored", ImageOps.mirror(scan), True)):
                file = f"Training/{label}/{name}_{seed}.png"
                image.save(root / file)
                rows.append((file, *box_of(label, mirrored)))
    with (root / "boxes.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "x_min", "y_min", "x_max", "y_max"), *rows])
    return root


def write_tiny_run(folder: Path, data: Path) -> Path:
    """The checkpoint folder that a run on these scans writes, with random weights."""
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=len(LABELS))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 1.5)
    model.get_classifier().weight.data.normal_(0, 1)
    save_checkpoint(
        folder,
        model,
        label_names=LABELS,
        preprocessing=Preprocessing((SIDE, SIDE), **PLAIN),
        brain_xai={"temperature": 1.5, "training": SETTINGS | {"no_tumor_label": "notumor"}},
    )
    scans = load_scans(data_dir=str(data), size=SIDE)
    splits = split_scans(scans, duplicate_groups(scans.thumbnails), "purged", seed=3, **SETTINGS)
    sizes = {name: len(indices) for name, indices in vars(splits).items()}
    metrics = {"split": "purged", "seed": 3, "data": {"fingerprint": scans.fingerprint, "n": sizes}}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder
