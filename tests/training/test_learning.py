"""What a run does between its data and its checkpoint: loss, schedule, epochs, in this process."""

import json
import math
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from accelerate.optimizer import AcceleratedOptimizer
from safetensors.torch import load_file, save_file

from brain_xai.checkpoint.folder import save_checkpoint
from brain_xai.classifier import CheckpointInfo, Classifier
from brain_xai.preprocess import Preprocessing
from tests.helpers.scans import LABELS, write_scans
from tests.helpers.training_runs import new_accelerator, start
from training.data.pool import make_pool
from training.data.sources import DataError
from training.learning.loop import train_epoch, validate
from training.learning.losses import Loss, Teacher
from training.learning.model import build_model, center_head, load_teacher
from training.learning.settings import TrainConfig
from training.train import class_weights, main, train

GRAY = Preprocessing((48, 48), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("learning")
    return TrainConfig(
        str(folder / "run"), data_dir=str(write_scans(folder / "data", train=8, test=2)), model="test_resnet",
        pretrained=False, sizes="32:2", batch_size=8, validation_fraction=0.25, learning_rate=0.01, ema_decay=0.9,
    )  # fmt: skip


@pytest.fixture(scope="module")
def started(settings):
    """The objects of a run; tests read them only."""
    return start(settings)


def weights(model):
    return torch.cat([value.detach().flatten() for value in model.parameters()]).clone()


def make_model(seed):
    torch.manual_seed(seed)
    model = timm.create_model("test_resnet", num_classes=len(LABELS)).eval()
    model.get_classifier().weight.data.normal_()
    return model


def test_a_model_for_images_of_one_size_is_refused_others_with_a_remedy_that_works(settings, started):
    transformer = replace(settings, model="vit_tiny_patch16_224", sizes="32:1,48:1")
    with pytest.raises(
        DataError, match=r"vit_tiny_patch16_224 cannot see images of 32 pixels .* Choose other --sizes"
    ) as refusal:
        build_model(transformer, started[2])
    remedy = re.search(r"'(\{\S+ true\})' for several sizes", str(refusal.value)).group(1)
    model, _ = build_model(replace(transformer, model_args=remedy), started[2])
    assert model(torch.zeros(1, 3, 32, 32)).shape == model(torch.zeros(1, 3, 48, 48)).shape


def test_a_teacher_sees_images_in_its_own_size_and_normalization():
    model = make_model(0)
    teacher = Teacher(Classifier(model, LABELS, GRAY, CheckpointInfo("teacher", "0", "test_resnet")))
    images = torch.rand(2, 1, 48, 48)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (GRAY.mean, GRAY.std))
    with torch.no_grad():
        expected = model((images - mean) / std)
        larger = F.interpolate(images, (96, 96), mode="nearest")
        # The memory format chooses another order of summation.
        assert torch.allclose(teacher(images), expected, atol=1e-5)
        assert torch.equal(teacher(larger).argmax(dim=1), expected.argmax(dim=1))
        resized = F.interpolate(larger, (48, 48), mode="bicubic", antialias=True).clamp(0, 1)
        assert torch.allclose(teacher(larger), model((resized - mean) / std), atol=1e-5)


def test_the_loss_of_a_student_that_agrees_with_its_teacher_is_its_share_of_cross_entropy(settings):
    """With equal logits the divergence is 0, although teacher and student normalize in different ways."""
    model = make_model(0)
    teacher = Teacher(Classifier(model, LABELS, GRAY, CheckpointInfo("teacher", "0", "test_resnet")))
    images, labels = torch.rand(3, 1, 48, 48), torch.tensor([0, 1, 2])
    logits, masks = teacher(images), torch.zeros(3, 0, 48, 48)
    settings = replace(settings, teacher_share=0.7, label_smoothing=0.0)
    loss = Loss(settings, teacher=teacher)(logits, labels, images, masks)
    assert loss.item() == pytest.approx(0.3 * F.cross_entropy(logits, labels).item(), rel=1e-5)


def test_distillation_by_hand(settings):
    """Teacher says (3/4, 1/4) at temperature 3, the student (1/2, 1/2)."""

    class Fixed(torch.nn.Module):
        def forward(self, images):
            return torch.tensor([[3 * math.log(3), 0.0]])

    settings = replace(settings, teacher_share=1.0, teacher_temperature=3.0)
    loss = Loss(settings, teacher=Fixed())(torch.zeros(1, 2), torch.tensor([0]), None, None)
    assert loss.item() == pytest.approx(9 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5)), rel=1e-5)


def test_a_teacher_of_another_split_is_refused(settings, started, tmp_path):
    folder, identity = tmp_path / "teacher", started[2].identity
    save_checkpoint(folder, make_model(0), label_names=LABELS, preprocessing=GRAY, brain_xai={})
    data = {"fingerprint": identity.fingerprint, "n": dict(identity.sizes)}
    (folder / "metrics.json").write_text(json.dumps({"split": "purged", "seed": 0, "data": data}))
    training, loaders, _ = start(replace(settings, teacher=str(folder)))
    assert math.isfinite(train_epoch(training, loaders.of_epoch(0, 32), 0)["train_loss"])
    (folder / "metrics.json").write_text(json.dumps({"split": "official", "seed": 0, "data": data}))
    with pytest.raises(DataError, match="another split"):
        start(replace(settings, teacher=str(folder)))


def test_a_teacher_that_sees_other_parts_of_the_images_is_refused(settings, started, tmp_path):
    folder, identity = tmp_path / "teacher", started[2].identity
    framed = replace(GRAY, frame=True)
    save_checkpoint(folder, make_model(0), label_names=LABELS, preprocessing=framed, brain_xai={})
    data = {"fingerprint": identity.fingerprint, "n": dict(identity.sizes)}
    (folder / "metrics.json").write_text(json.dumps({"split": "purged", "seed": 0, "data": data}))
    with pytest.raises(DataError, match="Train its student with --frame"):
        load_teacher(replace(settings, teacher=str(folder)), identity)


def test_initial_weights_that_fit_are_loaded_and_the_rest_is_named(settings, started, tmp_path):
    start_from = make_model(3).state_dict()
    given = {name: value for name, value in start_from.items() if not name.startswith("fc.")}
    save_file(given | {"extra": torch.zeros(2)}, tmp_path / "start.safetensors")
    settings = replace(settings, init_weights=str(tmp_path / "start.safetensors"))
    model, initial = build_model(settings, started[2])
    assert "random: fc.weight, fc.bias; not used: extra" in initial.init_from
    loaded = model.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in given.items())
    # Weights of a run on another split may have seen the test images.
    (tmp_path / "metrics.json").write_text(
        json.dumps({"split": "purged", "seed": 5, "data": {"fingerprint": "other", "n": {}}})
    )
    with pytest.raises(DataError, match="another split"):
        build_model(settings, started[2])


@pytest.mark.parametrize("bias", [True, False])
def test_a_centered_head_gives_the_same_probabilities(bias):
    model = make_model(0)
    if not bias:
        model.get_classifier().bias = None
    pixels = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        before = model(pixels).softmax(dim=1)
        center_head(model)
        logits = model(pixels)
    assert torch.allclose(logits.softmax(dim=1), before, atol=1e-6)
    assert logits.sum(dim=1).abs().max() < 1e-4


def test_class_weights_are_inverse_to_the_frequencies(settings, started):
    _, loaders, data = started
    labels = data.scans.labels.copy()
    labels[data.splits.train] = np.array([0] * 12 + [1] * 6 + [2] * 3 + [3] * 3)
    pool = replace(make_pool(settings, data, print), labels=labels)
    assert class_weights(settings, pool, loaders).tolist() == pytest.approx([24 / 48, 24 / 24, 24 / 12, 24 / 12])
    assert class_weights(replace(settings, class_weights=False), pool, loaders) is None


def test_class_weights_share_a_partly_known_label_and_leave_out_pasted_tumors(settings, started):
    _, loaders, data = started
    labels = data.scans.labels.copy()
    labels[data.splits.train] = np.array([0] * 6 + [1] * 6 + [2] * 6 + [4] * 6)  # id 4: class 0 or 3
    sets = np.concatenate([np.eye(4, dtype=bool), [[True, False, False, True]]])
    pool = replace(make_pool(settings, data, print), labels=labels, label_sets=sets, healthy=2)
    assert class_weights(settings, pool, loaders).tolist() == pytest.approx([24 / 36, 24 / 24, 24 / 24, 24 / 12])
    pasting = replace(settings, counterfactuals=1.0, boxes="boxes.csv")
    # 6 - .3 * 6 = 4.2 scans without a tumor are left of 24 - 1.8.
    left = class_weights(pasting, pool, loaders)[2].item()
    assert left == pytest.approx(22.2 / (4 * 4.2))


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_the_learning_rate_rises_and_falls_to_zero_over_the_run(settings, schedule):
    training, loaders, _ = start(replace(settings, schedule=schedule, warmup_fraction=0.5))
    rates = [training.optimizer.param_groups[0]["lr"]]
    for epoch in range(2):
        train_epoch(training, loaders.of_epoch(epoch, 32), epoch)
        rates.append(training.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0, 0.01, 0], abs=1e-9)


def test_accumulated_gradients_make_fewer_steps(settings):
    training, loaders, _ = start(replace(settings, gradient_accumulation_steps=2))
    assert len(loaders.training[32]) == 3
    train_epoch(training, loaders.of_epoch(0, 32), 0)
    assert training.scheduler.last_epoch == 2  # of two batches and of the one that is left


def test_bfloat16_trains_and_validates(settings):
    training, loaders, _ = start(replace(settings, mixed_precision="bf16"))
    seen = []
    training.accelerator.unwrap_model(training.model).layer4.register_forward_hook(
        lambda module, inputs, output: seen.append(output.dtype)
    )
    before = weights(training.averaged)
    row = train_epoch(training, loaders.of_epoch(0, 32), 0) | validate(training, loaders.validation)
    assert set(seen) == {torch.bfloat16}
    assert all(math.isfinite(value) for value in row.values())
    assert not torch.equal(weights(training.averaged), before)


def test_a_skipped_step_moves_neither_schedule_nor_average(settings):
    """With fp16, a step whose gradients overflow is skipped."""
    training, loaders, _ = start(settings)
    scaler = torch.amp.GradScaler("cpu", init_scale=math.inf)
    training.accelerator.scaler = scaler
    optimizer = AcceleratedOptimizer(training.optimizer.optimizer, scaler=scaler)
    training.accelerator._optimizers = [optimizer]
    training = replace(training, optimizer=optimizer)
    before = weights(training.model), weights(training.averaged)
    batches = [next(iter(loaders.of_epoch(0, 32)))]
    train_epoch(training, batches, 0)
    assert training.accelerator.optimizer_step_was_skipped
    assert training.scheduler.last_epoch == 0
    assert torch.equal(weights(training.model), before[0])
    assert torch.equal(weights(training.averaged), before[1])


def test_the_norm_of_the_gradient_is_clipped(settings):
    """Plain gradient descent with rate 1 moves the weights by the gradient."""
    training, loaders, _ = start(replace(settings, clip_norm=0.01, ema_decay=0.0))
    plain = torch.optim.SGD(training.model.parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.ConstantLR(plain, factor=1.0)
    training = replace(training, optimizer=training.accelerator.prepare(plain), scheduler=schedule)
    before = weights(training.model)
    train_epoch(training, [next(iter(loaders.of_epoch(0, 32)))], 0)
    assert (weights(training.model) - before).norm().item() == pytest.approx(0.01, rel=1e-3)


def test_validation_leaves_the_model_in_its_mode(started):
    training, loaders, _ = started
    training.averaged.train()
    first, second = (validate(training, loaders.validation) for _ in range(2))
    assert training.averaged.training
    assert first == pytest.approx(second, rel=1e-5)  # float32; threads may add up in another order


def test_a_run_that_stops_early_is_finished(settings, tmp_path):
    """Without a moving average and with boxes, whose hooks a checkpoint must not see."""
    boxes = tmp_path / "boxes.csv"
    names = [f"Training/{label}/{label}_{seed:03d}.png" for label in LABELS[:2] for seed in range(8)]
    boxes.write_text("\n".join(["file,x_min,y_min,x_max,y_max", *(f"{name},0.2,0.2,0.8,0.8" for name in names)]))
    output = tmp_path / "run"
    # Without a learning rate no epoch is better than the first one.
    settings = replace(
        settings, output_dir=str(output), sizes="32:9", patience=1, learning_rate=0.0, ema_decay=0.0, boxes=str(boxes),
        weight_decay=0.0, augmentation=0.0,
    )  # fmt: skip
    train(settings, new_accelerator(settings))
    metrics = json.loads((output / "metrics.json").read_text())
    assert len(metrics["history"]) < 9
    assert metrics["training"]["epochs"] == len(metrics["history"])
    config = json.loads((output / "config.json").read_text())["brain_xai"]
    assert config["training"]["boxes"] == "boxes.csv"
    stored = load_file(output / "model.safetensors")
    assert {str(value.dtype).removeprefix("torch.") for value in stored.values() if value.is_floating_point()} == {
        config["stored_as"]
    }


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--sizes", "48:1,32:1"], "sizes must not shrink"),
        (["--model-args", "{output_stride: 16}"], "is not JSON"),
        (["--model-args", "[16]"], "is not a JSON object"),
        (["--model-args", '{"no_such": 1}'], "no_such"),
        (["--model", "resnet_from_mars"], "resnet_from_mars"),
        (["--init-weights", "missing.safetensors"], "There is no file"),
        (["--teacher", "bundled/nobody"], "There is no bundled/nobody"),
        (["--pretrained"], "--no-pretrained"),
    ],
)
def test_wrong_settings_say_what_to_do(settings, tmp_path, monkeypatch, more, says):
    new_accelerator(settings)
    arguments = ["--data-dir", settings.data_dir, "--output-dir", str(tmp_path / "run"), "--model", "test_resnet"]
    if more != ["--pretrained"]:
        arguments.append("--no-pretrained")
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments, "--sizes", "32:1", *more])
    with pytest.raises(SystemExit, match=re.escape(says)):
        main()
