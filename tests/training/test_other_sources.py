"""Scans from other sources: labels that leave classes open, and splits that keep copies and patients together."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.helpers.scans import LABELS, make_scan, write_scans
from training.data.duplicate_groups import duplicate_groups
from training.data.loader import BalancedSampler
from training.data.other_sources import (
    Hold,
    OtherSplits,
    Source,
    label_ids,
    load_other,
    parse_source,
    split_other,
)
from training.data.pool import make_pool
from training.data.sources import DataError, load_scans
from training.data.splits import SplitIdentity, Splits, TrainingData, split_scans
from training.evaluation.unseen import never_trained_on
from training.learning.losses import partly_known
from training.learning.settings import TrainConfig, command_of, command_without_paths

SIZE = 32


def test_a_source_is_read_with_its_options():
    assert parse_source("a/b:yes=tumor,no=notumor,hold=0.5,patient=P[0-9]+") == Source(
        "a/b", {"yes": "tumor", "no": "notumor"}, Hold(0.5), "P[0-9]+"
    )
    assert parse_source("a/b") == Source("a/b", {}, Hold(0.0), None)
    assert parse_source("a/b:hold=2/4").hold == Hold(0.25, turn=2, turns=4)


@pytest.mark.parametrize("options", ["hold=1.5", "hold=3/2", "hold=0/2", "hold=some", "yes", "patient=("])
def test_an_option_that_cannot_be_read_is_named(options):
    with pytest.raises(DataError, match=r"--source a/b"):
        parse_source(f"a/b:{options}")


def test_the_loss_of_a_partly_known_label_is_that_of_its_summed_probability():
    # Probabilities 1/8, 1/8, 1/2, 1/4: of the first two 1/4, of the third alone 1/2.
    logits = torch.tensor([[1.0, 1, 4, 2], [1, 1, 4, 2]]).log()
    allowed = torch.tensor([[True, True, False, False], [False, False, True, False]])
    assert partly_known(logits, allowed).item() == pytest.approx((np.log(4) + np.log(2)) / 2)
    # Weights 1 and 3 of the first two classes make 2, that of the third is 4: (2 ln 4 + 4 ln 2) / 6.
    weights = torch.tensor([1.0, 3, 4, 1])
    assert partly_known(logits, allowed, weights).item() == pytest.approx((2 * np.log(4) + 4 * np.log(2)) / 6)


def test_with_known_labels_it_is_the_cross_entropy():
    random = torch.Generator().manual_seed(0)
    logits, weights = torch.randn(9, 4, generator=random), torch.rand(4, generator=random) + 0.5
    labels = torch.arange(9) % 4
    expected = F.cross_entropy(logits, labels, weights, label_smoothing=0.1)
    assert partly_known(logits, F.one_hot(labels, 4).bool(), weights, 0.1).item() == pytest.approx(expected.item())


def test_label_ids_start_with_the_classes():
    allowed = np.array([[0, 1, 0], [1, 1, 0], [1, 1, 0]], dtype=bool)
    ids, sets = label_ids(np.array([2, 0]), allowed, 3)
    assert ids.tolist() == [2, 0, 1, 3, 3]
    assert sets[:3].tolist() == np.eye(3, dtype=bool).tolist()
    assert sets[3].tolist() == [True, True, False]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Main data; "clinic", patients p0 to p5 with three gliomas each; and "web": tumor or not, with copies of the main
    data's scans without a tumor: of seeds 0 to 11 from its training folder and 12 to 15 from its test folder."""
    root = tmp_path_factory.mktemp("data")
    write_scans(root / "main")
    for patient in range(6):
        (root / "clinic" / "glioma").mkdir(parents=True, exist_ok=True)
        for slice_ in range(3):
            scan = make_scan("glioma", 100 + 3 * patient + slice_)
            scan.save(root / "clinic" / "glioma" / f"p{patient}_{slice_}.png")
    for folder, label, seeds in (("yes", "meningioma", range(200, 210)), ("no", "notumor", range(16))):
        (root / "web" / folder).mkdir(parents=True)
        for seed in seeds:
            make_scan(label, seed).save(root / "web" / folder / f"{seed}.png")
    return root


@pytest.fixture(scope="module")
def main(folders) -> TrainingData:
    scans = load_scans(str(folders / "main"), size=SIZE)
    groups = duplicate_groups(scans.thumbnails)
    splits = split_scans(scans, groups, "purged", 0, 0.2)
    return TrainingData(scans, groups, splits, SplitIdentity.of_splits(splits, "purged", 0, scans))


@pytest.fixture(scope="module")
def settings(folders) -> TrainConfig:
    return TrainConfig(
        "not-written",
        data_dir=str(folders / "main"),
        sizes=f"{SIZE}:1",
        validation_fraction=0.2,
        source=[f"{folders}/clinic:hold=0.34,patient=p[0-9]", f"{folders}/web:yes=tumor,no=notumor,hold=0.5"],
    )


@pytest.fixture(scope="module")
def other(settings, main):
    sources = [parse_source(text) for text in settings.source]
    scans = load_other(sources, main.scans, "notumor", SIZE, framed=False)
    return scans, split_other(main.scans, main.splits, scans, sources, 0, 0.2)


def test_labels_are_mapped_to_the_classes(other):
    scans, _ = other
    of = dict(zip(scans.files, scans.allowed.tolist(), strict=True))
    assert of["clinic/glioma/p0_0.png"] == [True, False, False, False]
    assert of["web/yes/200.png"] == [label != "notumor" for label in LABELS]
    assert of["web/no/3.png"] == [label == "notumor" for label in LABELS]


def test_a_folder_that_is_no_class_is_named(folders, main):
    with pytest.raises(DataError, match="yes"):
        load_other([parse_source(f"{folders}/web:no=notumor")], main.scans, "notumor", SIZE, framed=False)


def test_the_parts_are_disjoint_and_a_patient_is_in_one_of_them(other):
    scans, parts = other
    pieces = (parts.train, parts.validation, parts.held_out)
    assert sorted(np.concatenate(pieces).tolist()) == list(range(len(scans)))
    patients = [{scans.patients[i] for i in piece} - {""} for piece in pieces]
    assert patients[0] | patients[1] | patients[2] == {f"clinic/p{i}" for i in range(6)}
    assert sum(map(len, patients)) == 6
    assert len(patients[2]) == 2  # .34 of 6


def test_what_shares_a_picture_with_the_main_test_set_is_held_out(other):
    scans, parts = other
    held_out = {scans.files[i] for i in parts.held_out}
    assert {f"web/no/{seed}.png" for seed in range(12, 16)} <= held_out
    assert sum(file.startswith("web/no/") for file in held_out) == 8  # half of 16
    assert sum(file.startswith("web/yes/") for file in held_out) == 5


def test_the_parts_of_a_source_take_turns(settings, main, other):
    scans, halves = other[0], []
    for turn in (1, 2):
        sources = [parse_source(text.replace("hold=0.5", f"hold={turn}/2")) for text in settings.source]
        parts = split_other(main.scans, main.splits, scans, sources, 0, 0.2)
        halves.append({scans.files[i] for i in parts.held_out if scans.sources[i] == "web"})
    of_main_test = {f"web/no/{seed}.png" for seed in range(12, 16)}
    assert halves[0] & halves[1] == of_main_test
    left = {file for file, source in zip(scans.files, scans.sources, strict=True) if source == "web"}
    in_main_validation = left - halves[0] - halves[1]
    shared = np.isin(parts.groups, parts.groups[main.splits.validation])[len(main.scans.files) :]
    assert in_main_validation == {scans.files[i] for i in np.flatnonzero(shared) if scans.sources[i] == "web"}


def test_a_whole_source_can_be_held_out(settings, main, other):
    sources = [parse_source(text.replace("hold=0.34", "hold=1")) for text in settings.source]
    parts = split_other(main.scans, main.splits, other[0], sources, 0, 0.2)
    assert set(np.flatnonzero(other[0].sources == "clinic")) <= set(parts.held_out)


def test_no_held_out_picture_is_trained_on_in_any_source(settings, main, other):
    _, parts = other
    pool = make_pool(settings, main, print)
    first = len(main.scans.files)
    trained = pool.groups[pool.train]
    assert not np.isin(trained, pool.groups[first + parts.held_out]).any()
    assert not np.isin(trained, pool.groups[first + parts.validation]).any()
    assert not np.isin(trained, pool.groups[: len(main.scans.files)][main.splits.test]).any()
    # Of the main data only copies of held-out scans are missing.
    missing = np.setdiff1d(main.splits.train, pool.train)
    assert sorted(missing.tolist()) == sorted(parts.purged.tolist())
    assert len(missing) > 0
    of_validation = np.concatenate(list(pool.validation.values()))
    assert sorted(of_validation.tolist()) == (first + parts.validation).tolist()


def test_the_same_seed_gives_the_same_parts(settings, main, other):
    scans, parts = other
    sources = [parse_source(text) for text in settings.source]
    again, another = (split_other(main.scans, main.splits, scans, sources, seed, 0.2) for seed in (0, 1))
    assert again.held_out.tolist() == parts.held_out.tolist()
    assert another.held_out.tolist() != parts.held_out.tolist()


def test_without_other_sources_the_pool_is_the_main_data(settings, main):
    pool = make_pool(replace(settings, source=[]), main, print)
    assert pool.pixels is main.scans.pixels
    assert pool.train.tolist() == main.splits.train.tolist()
    assert pool.label_sets.tolist() == np.eye(4, dtype=bool).tolist()
    assert pool.fingerprint != make_pool(settings, main, print).fingerprint


def test_the_balanced_sampler_draws_by_the_root_of_the_distinct_images():
    # Kind 0: 4 distinct images with 3 copies each at even places; kind 1: 64 distinct ones. Roots 2 and 8.
    indices = np.arange(100, 176)
    cells = np.array([0] * 12 + [1] * 64)
    groups = np.zeros(200, dtype=int)
    groups[indices] = np.concatenate([np.repeat(np.arange(4), 3), 10 + np.arange(64)])
    sampler = BalancedSampler(indices, cells, groups, 40, seed=3)
    assert sampler.quotas.tolist() == [8, 32]
    drawn = list(sampler)
    assert len(drawn) == len(sampler) == 40
    small = [groups[i] for i in drawn if i < 112]
    assert np.bincount(small).tolist() == [2, 2, 2, 2]
    large = [i for i in drawn if i >= 112]
    assert len(set(large)) == len(large) == 32
    assert list(sampler) == drawn
    sampler.epoch = 1
    assert list(sampler) != drawn


def test_recorded_commands_keep_the_options_of_sources_but_no_path():
    settings = TrainConfig("out", data_dir="/home/a/main", source=["/home/a/x:yes=tumor,hold=0.5", "b/y"], frame=True)
    command = command_of(settings)
    assert "--source x:yes=tumor,hold=0.5 y" in command
    assert "/home" not in command
    recorded = "accelerate launch training/train.py --source /home/a/x:hold=0.5 b/y --frame --data-dir /home/a/main"
    assert command_without_paths(recorded) == (
        "accelerate launch training/train.py --source x:hold=0.5 y --frame --data-dir main"
    )


def test_what_a_checkpoint_was_trained_on_measures_nothing():
    # Main images 0-3 show the pictures 10-13, other scans 0-2 the pictures 11, 20 and 13.
    splits = Splits(train=np.array([0, 1]), validation=np.array([2]), test=np.array([3]))
    parts = OtherSplits(
        train=np.array([], dtype=int),
        validation=np.array([], dtype=int),
        held_out=np.array([0, 1, 2]),
        groups=np.array([10, 11, 12, 13, 11, 20, 13]),
        purged=np.array([1]),
        units=np.array([0, 1, 2]),
    )
    assert never_trained_on(parts, splits, with_sources=True).tolist() == [0, 1, 2]
    assert never_trained_on(parts, splits, with_sources=False).tolist() == [1, 2]
