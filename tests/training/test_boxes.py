"""Tumor boxes in training: masks where the boxes are, moved with the image, and a loss checked by hand."""

import math

import numpy as np
import pytest
import timm
import torch

from brain_xai.preprocess import Preprocessing
from training.data.augment import augment
from training.data.boxes import box_masks, load_boxes
from training.data.loader import ScanDataset
from training.data.sources import DataError
from training.learning.losses import BoxLoss

PLAIN = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
NONE = [math.nan] * 4


def boxes_file(folder, lines):
    file = folder / "boxes.csv"
    file.write_text("\n".join(["file,label,x_min,y_min,x_max,y_max", *lines]) + "\n")
    return file


def test_boxes_are_matched_by_file_name(tmp_path):
    file = boxes_file(tmp_path, ["Training/glioma/b.png,glioma,0.1,0.2,0.3,0.4"])
    boxes = load_boxes(file, ["Training/glioma/a.png", "Training/glioma/b.png"])
    assert np.isnan(boxes[0]).all()
    assert boxes[1].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["a.png,glioma,0.1,0.2,x,0.4"], "is not a CSV with the columns"),
        (["b.png,glioma,0,0,1,1"], "names none of the images"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, lines, sentence):
    with pytest.raises(DataError, match=sentence):
        load_boxes(boxes_file(tmp_path, lines), ["a.png"])


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no\.csv is not a CSV"):
        load_boxes(tmp_path / "no.csv", ["a.png"])


def test_a_mask_holds_the_fraction_of_each_pixel_inside_the_box():
    masks = box_masks(torch.tensor([[0.25, 0.5, 0.875, 1.0], NONE]), 4)
    row = [0.0, 1.0, 1.0, 0.5]  # columns: 1 to 3.5 of 4
    assert masks[0, 0].tolist() == [[0.0] * 4, [0.0] * 4, row, row]
    assert not masks[1].any()


def test_masks_move_with_the_image_and_keep_their_values():
    torch.manual_seed(0)
    mask = box_masks(torch.tensor([[0.3, 0.2, 0.6, 0.5]] * 8), 64)
    moved = augment(torch.cat([mask, mask], dim=1), 1.0)
    # Mirrored, rotated and shifted; dark patches and tone curves change the image's own channel only.
    torch.manual_seed(0)
    again = augment(torch.cat([torch.zeros_like(mask), mask], dim=1), 1.0)
    assert torch.equal(moved[:, 1], again[:, 1])
    assert not torch.equal(moved[:, 1], mask[:, 0])
    bright = moved[:, 0] > 0.05
    assert (bright & (moved[:, 1] == 0)).float().mean() < 0.02  # the image's box is nowhere but under the mask


def test_the_data_set_draws_the_mask_of_each_image():
    pixels = np.full((3, 8, 8), 7, dtype=np.uint8)
    data = ScanDataset(pixels, np.zeros(3, dtype=np.int64), 8, np.array([NONE, [0, 0, 0.5, 1], NONE], np.float32))
    batch, _, _ = data.__getitems__([2, 1])
    assert batch.shape == (2, 2, 8, 8)
    assert (batch[:, 0] == 7).all()
    assert not batch[0, 1].any()
    assert (batch[1, 1, :, :4] == 255).all()
    assert not batch[1, 1, :, 4:].any()


def make_model():
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=3)


def test_the_loss_is_the_negative_log_of_the_share_inside():
    model = make_model()
    box_loss = BoxLoss(model, Preprocessing((64, 64), **PLAIN))
    # Everywhere the map of class 0 is 3, the others are 0. Less the mean over the classes, 1, they are 2 and -1: in
    # multiples of their mean strength, 1 and -1.
    model.get_classifier().weight.data = torch.tensor([[3.0], [0.0], [0.0]]).expand(3, model.num_features) / 10
    features = torch.full((2, model.num_features, 2, 2), 10 / model.num_features)
    box_loss._keep(None, (), features)
    masks = box_masks(torch.tensor([[0.0, 0.0, 0.5, 0.25], [0.5, 0.5, 1.0, 1.0]]), 64)
    within = [math.log1p(math.exp(1)) / 8, math.log1p(math.exp(-1)) / 4]
    beyond = [7 / 8, 3 / 4]
    expected = [-math.log(a / (a + b)) for a, b in zip(within, beyond, strict=True)]
    assert box_loss(torch.tensor([0, 2]), masks).item() == pytest.approx(sum(expected) / 2, rel=1e-4)


def test_evidence_that_all_classes_share_does_not_count():
    model = make_model().eval()
    box_loss = BoxLoss(model, Preprocessing((64, 64), **PLAIN))
    pixels, labels = torch.rand(2, 3, 64, 64), torch.tensor([0, 2])
    masks = box_masks(torch.tensor([[0.0, 0.0, 0.5, 0.25]] * 2), 64)
    model(pixels)
    before = box_loss(labels, masks).item()
    model.get_classifier().weight.data += torch.randn(model.num_features)
    model(pixels)
    assert box_loss(labels, masks).item() == pytest.approx(before, rel=1e-4)


def test_the_strength_of_the_map_does_not_count():
    model = make_model().eval()
    box_loss = BoxLoss(model, Preprocessing((64, 64), **PLAIN))
    pixels, labels = torch.rand(2, 3, 64, 64), torch.tensor([0, 2])
    masks = box_masks(torch.tensor([[0.0, 0.0, 0.5, 0.25]] * 2), 64)
    losses = []
    for factor in (1.0, 0.01):
        model.get_classifier().weight.data *= factor
        model(pixels)
        losses.append(box_loss(labels, masks).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_images_without_a_box_are_ignored():
    model = make_model()
    box_loss = BoxLoss(model, Preprocessing((64, 64), **PLAIN))
    pixels, labels = torch.rand(2, 3, 64, 64), torch.tensor([0, 1])
    model.eval()(pixels)
    both = box_loss(labels, box_masks(torch.tensor([[0.0, 0.0, 0.5, 0.25], NONE]), 64)).item()
    model(pixels[:1])
    assert both == pytest.approx(
        box_loss(labels[:1], box_masks(torch.tensor([[0.0, 0.0, 0.5, 0.25]]), 64)).item(), rel=1e-5
    )
    model(pixels)
    assert box_loss(labels, box_masks(torch.tensor([NONE, NONE]), 64)).item() == 0


def test_minimizing_the_loss_moves_the_evidence_into_the_box():
    model = make_model().train()
    box_loss = BoxLoss(model, Preprocessing((64, 64), **PLAIN))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    pixels = torch.rand(4, 3, 64, 64)
    pixels[:, :, 8:24, 32:56] += 1
    masks, labels = box_masks(torch.tensor([[0.5, 0.125, 0.875, 0.375]] * 4), 64), torch.tensor([0, 1, 2, 0])
    losses = []
    for _ in range(30):
        model(pixels)
        losses.append(box_loss(labels, masks))
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0] / 2


def test_another_head_is_refused():
    model = timm.create_model("test_vit", num_classes=3, img_size=64)
    with pytest.raises(DataError, match="needs global average pooling and a linear layer"):
        BoxLoss(model, Preprocessing((64, 64), **PLAIN))
