"""Checkpoints from the Hub: the right commit, nothing that is strange, and an answer whatever the Hub does."""

import json
import socket
import time
from pathlib import Path

import pytest
from gradio_client import Client, handle_file
from PIL import Image
from safetensors.torch import load, save

from brain_xai import load_checkpoint
from brain_xai.checkpoint import catalog, schema
from brain_xai.checkpoint import hub as hub_files
from brain_xai.checkpoint.catalog import bundled_checkpoints, checkpoint_folder
from brain_xai.checkpoint.hub import HubUnreachable, cached
from brain_xai.checkpoint.schema import CheckpointError
from brain_xai.ui import api, hub_follower
from brain_xai.ui.inputs import Refusal
from tests.helpers.at_hub import files_of, publish, use
from tests.helpers.local_hub.__main__ import Hub, serve
from tests.helpers.scans import LABELS, make_scan
from tests.helpers.served import save_tiny_checkpoint, served

REPO = "org/tiny"


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, bytes]:
    """A checkpoint as it is published."""
    folder = tmp_path_factory.mktemp("tiny")
    save_tiny_checkpoint(folder, LABELS)
    (folder / "examples").mkdir()
    make_scan("glioma", 0).save(folder / "examples" / "glioma.png")
    return files_of(folder)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    hub_follower.followed.cache_clear()
    with serve(tmp_path / "hub") as hub:
        use(hub.endpoint, tmp_path / ".cache", monkeypatch)  # hidden, as it is in a home folder
        yield hub


@pytest.fixture
def scan(tmp_path) -> Path:
    path = tmp_path / "scan.png"
    make_scan("glioma", 1, side=90).save(path)
    return path


def other_weights(files: dict[str, bytes], change=lambda value: value + 1) -> dict[str, bytes]:
    weights = load(files["model.safetensors"])
    return {"model.safetensors": save(weights | {"fc.bias": change(weights["fc.bias"])})}


def forget_models():
    """Let the next page load and measure its model as in a new process."""
    for cache in (catalog._load, hub_follower._local, hub_follower._with_notice, hub_follower.followed):
        cache.cache_clear()


def go_away(hub: Hub) -> None:
    """Let the Hub be down for the rest of the test."""
    hub.fault(".", 503, times=10**6)


def asked(hub: Hub) -> list[str]:
    return [request.path for request in hub.requests]


def codes(classifier) -> list[str]:
    return [notice.code for notice in classifier.notices]


# Which commit answers


def test_the_commit_is_the_revision_and_the_newest_one_answers(hub, files, scan):
    first = publish(hub, REPO, files)
    classifier = load_checkpoint(REPO)
    assert (classifier.info.id, classifier.info.revision) == (REPO, first)
    assert classifier.predict(scan).checkpoint.revision == first
    second = publish(hub, REPO, other_weights(files))
    assert load_checkpoint(REPO).info.revision == second
    assert load_checkpoint(f"{REPO}@{first}").info.revision == first
    assert load_checkpoint(f"{REPO}@{first}").predict(scan).probabilities == classifier.predict(scan).probabilities
    assert load_checkpoint(REPO).predict(scan).probabilities != classifier.predict(scan).probabilities


def test_a_branch_is_followed_by_its_name(hub, files):
    publish(hub, REPO, files)
    on_branch = publish(hub, REPO, other_weights(files), branch="next")
    assert load_checkpoint(f"{REPO}@next").info.revision == on_branch != load_checkpoint(REPO).info.revision


def test_a_pinned_commit_is_fetched_once_and_never_asked_for_again(hub, files):
    sha = publish(hub, REPO, files)
    load_checkpoint(f"{REPO}@{sha}")
    before = len(hub.requests)
    go_away(hub)
    assert codes(load_checkpoint(f"{REPO}@{sha}")) == []
    assert codes(hub_follower.classifier_of(f"{REPO}@{sha}")) == []
    assert len(hub.requests) == before


def test_only_what_is_needed_is_fetched(hub, files):
    publish(hub, REPO, files | {"code.py": b"", "optimizer.bin": b"", "figures/curves.png": b"", "more/x.json": b"{}"})
    load_checkpoint(REPO)
    folder = checkpoint_folder(REPO)
    assert set(files_of(folder)) == {"config.json", "model.safetensors", "metrics.json", "examples/glioma.png"}


def test_of_many_examples_some_are_fetched_and_all_else(hub, files):
    publish(hub, REPO, files | {f"examples/{number}.png": b"" for number in range(60)})
    load_checkpoint(REPO)
    names = set(files_of(checkpoint_folder(REPO)))
    assert {"config.json", "metrics.json", "model.safetensors"} < names
    assert len(names) == 51


def test_without_the_hub_the_last_copy_answers_and_says_so(hub, files, scan):
    sha = publish(hub, REPO, files)
    load_checkpoint(REPO)
    go_away(hub)
    publish(hub, REPO, other_weights(files))
    started = time.monotonic()
    classifier = load_checkpoint(REPO)
    assert time.monotonic() - started < 3
    assert classifier.info.revision == sha
    [warning] = classifier.predict(scan).warnings
    assert warning.code == "hub_unreachable"
    assert sha[:12] in warning.message


def test_without_the_hub_and_a_copy_it_is_told_at_once(hub, files):
    publish(hub, REPO, files)
    go_away(hub)
    started = time.monotonic()
    with pytest.raises(HubUnreachable, match="cannot be fetched from the Hub now"):
        load_checkpoint(REPO)
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("fault", ["drop", "truncate"])
def test_a_download_that_breaks_off_once_is_taken_up_again(hub, files, fault):
    sha = publish(hub, REPO, files)
    hub.fault("GET .*model.safetensors|GET /storage", fault)
    assert load_checkpoint(REPO).info.revision == sha


# What is strange


def test_a_repository_that_is_not_there_or_not_shown(hub, files):
    for name in ("org/missing", f"{REPO}@nowhere"):
        with pytest.raises(CheckpointError, match="Check the spelling and"):
            load_checkpoint(name)
    publish(hub, REPO, files)
    for status in (401, 403, 404):
        hub.fault("GET /api/models", status)
        with pytest.raises(CheckpointError, match="does not show it"):
            load_checkpoint(REPO)


@pytest.mark.parametrize(
    ("strange", "sentence"),
    [
        ({"model.safetensors": None, "pytorch_model.bin": b"\x80\x04"}, "only pickled weights, which could run code"),
        ({"model.safetensors": None}, "no model.safetensors"),
        ({"../../evil.png": b""}, "names lead out of it"),
        ({"examples/../../evil.png": b""}, "names lead out of it"),
        ({"metrics.json": bytes(6_000_000)}, "metrics.json has 6 MB"),
        ({"config.json": None}, "has no config.json"),
    ],
)
def test_a_strange_repository_is_refused(hub, files, strange, sentence):
    content = {name: content for name, content in (files | strange).items() if content is not None}
    publish(hub, REPO, content)
    with pytest.raises(CheckpointError, match=sentence):
        load_checkpoint(REPO)
    assert not any("storage" in path for path in asked(hub)) or "config.json" in strange


def test_huge_weights_are_refused_before_they_are_fetched(hub, files, monkeypatch):
    monkeypatch.setattr(schema, "MAX_WEIGHTS_BYTES", len(files["model.safetensors"]) - 1)
    publish(hub, REPO, files)
    with pytest.raises(CheckpointError, match="at most"):
        load_checkpoint(REPO)
    assert not any("model.safetensors" in path or "storage" in path for path in asked(hub))


# What the app does


def test_a_new_revision_is_picked_up_without_a_restart(hub, files):
    first = publish(hub, REPO, files)
    assert hub_follower.classifier_of(REPO).info.revision == first
    second = publish(hub, REPO, other_weights(files))
    before = len(hub.requests)
    assert hub_follower.classifier_of(REPO).info.revision == first  # looked at a moment ago
    assert len(hub.requests) == before
    look_again(REPO)
    assert hub_follower.classifier_of(REPO).info.revision == second
    assert codes(hub_follower.classifier_of(REPO)) == []


def look_again(name: str) -> None:
    """Let the time until the next look pass, and wait for the look."""
    followed = hub_follower.followed(name)
    followed._next_look = 0
    followed.look()
    assert followed._looked.wait(20)


def test_a_new_revision_that_is_strange_changes_nothing(hub, files, scan, capfd):
    first = publish(hub, REPO, files)
    hub_follower.classifier_of(REPO)
    publish(hub, REPO, other_weights(files, lambda value: value * float("nan")))
    look_again(REPO)
    classifier = hub_follower.classifier_of(REPO)
    assert classifier.info.revision == first
    assert codes(classifier) == ["revision_refused"]
    assert "not numbers" in capfd.readouterr().err  # the maintainer reads why
    third = publish(hub, REPO, files)
    look_again(REPO)
    assert hub_follower.classifier_of(REPO).info.revision == third
    assert codes(hub_follower.classifier_of(REPO)) == []


def test_while_the_hub_is_down_the_copy_answers_and_afterwards_the_new_revision(hub, files):
    first = publish(hub, REPO, files)
    hub_follower.classifier_of(REPO)
    go_away(hub)
    look_again(REPO)
    assert hub_follower.classifier_of(REPO).info.revision == first
    assert codes(hub_follower.classifier_of(REPO)) == ["hub_unreachable"]
    hub.clear_faults()
    second = publish(hub, REPO, other_weights(files))
    look_again(REPO)
    assert hub_follower.classifier_of(REPO).info.revision == second
    assert codes(hub_follower.classifier_of(REPO)) == []


def test_models_in_memory_are_few(hub, files):
    names = [f"org/tiny-{number}" for number in range(6)]
    for name in names:
        publish(hub, name, files)
    classifiers = [load_checkpoint(name) for name in names]
    assert load_checkpoint(names[-1]) is classifiers[-1]
    assert load_checkpoint(names[0]) is not classifiers[0]


def test_only_allowed_names_reach_the_hub(hub, files, scan, monkeypatch):
    publish(hub, REPO, files)
    monkeypatch.setenv("BRAIN_XAI_CHECKPOINTS", REPO)
    upload = {"path": str(scan), "orig_name": "scan.png"}
    for name in ("org/other", f"{REPO}@main", f"{REPO}/../other"):
        with pytest.raises(Refusal, match="no such checkpoint"):
            api.predict(upload, name)
    assert hub.requests == []


def test_the_page_serves_a_checkpoint_of_the_hub_with_its_examples(hub, files, scan):
    sha = publish(hub, REPO, files)
    with served(f"{REPO}@{sha}", REPO) as (page, address):
        client = Client(address, verbose=False, analytics_enabled=False)
        answer = client.predict(image=handle_file(scan), api_name="/predict")
        assert answer["checkpoint"] == {"id": f"{REPO}@{sha}", "revision": sha, "architecture": "test_resnet"}
        assert answer["warnings"] == []
        assert [entry["revision"] for entry in client.predict(api_name="/checkpoints")] == [sha, sha]
        [examples] = [block for block in page.blocks.values() if block.elem_id == "examples"]
        pictures = [Path(sample[0]["path"]) for sample in examples.samples]
        assert "glioma.png" in [path.name for path in pictures]
        with Image.open(next(path for path in pictures if path.name == "glioma.png")) as shown:
            assert shown.size == (64, 64)


def test_without_fallback_no_other_model_answers(hub, files):
    publish(hub, REPO, files)
    go_away(hub)
    assert hub_follower.classifier_of(REPO, allow_fallback=True).info.id == bundled_checkpoints()[0]
    with pytest.raises(CheckpointError, match=r"cannot be fetched .*No other model answers in its place"):
        hub_follower.classifier_of(REPO, allow_fallback=False)
    hub.clear_faults()
    look_again(REPO)
    assert hub_follower.classifier_of(REPO, allow_fallback=False).info.id == REPO
    go_away(hub)
    look_again(REPO)  # an outdated copy is still the checkpoint that was asked for
    assert codes(hub_follower.classifier_of(REPO, allow_fallback=False)) == ["hub_unreachable"]


@pytest.fixture
def black_hole():
    """The address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_without_fallback_a_download_that_takes_long_is_an_error(black_hole, tmp_path, monkeypatch):
    use(black_hole, tmp_path / "cache", monkeypatch)
    monkeypatch.setattr(hub_files, "ANSWER_SECONDS", 600)  # so that the request outlasts the test
    with pytest.raises(CheckpointError, match=r"is still being downloaded .*Try again in a few minutes"):
        hub_follower.classifier_of("org/endless", allow_fallback=False)


def test_with_a_hub_that_never_answers_the_page_is_up_and_a_bundled_model_answers(
    black_hole, tmp_path, monkeypatch, scan
):
    use(black_hole, tmp_path / "cache", monkeypatch)
    with served(bundled_checkpoints()[0]):
        pass  # once all is imported
    forget_models()
    started = time.monotonic()
    with served(bundled_checkpoints()[0]):
        normal = time.monotonic() - started
    forget_models()
    started = time.monotonic()
    with served(REPO) as (_, address):
        assert time.monotonic() - started < normal + 3
        client = Client(address, verbose=False, analytics_enabled=False)
        with pytest.raises(Exception, match="No other model answers in its place"):
            client.predict(image=handle_file(scan), api_name="/predict")
        classifier = hub_follower.classifier_of(REPO)
        assert classifier.info.id == bundled_checkpoints()[0]
        assert codes(classifier) == ["hub_unreachable"]
        assert client.predict(api_name="/checkpoints") == []


def test_a_strange_default_does_not_keep_the_page_from_starting(hub, files, scan, monkeypatch, capfd):
    config = json.loads(files["config.json"]) | {"architecture": "resnet_from_mars"}
    publish(hub, REPO, files | {"config.json": json.dumps(config).encode()})
    publish(hub, "org/sound", files)
    with served(REPO, "org/sound") as (_, address):
        client = Client(address, verbose=False, analytics_enabled=False)
        with pytest.raises(Exception, match=r"cannot be loaded at the moment.*resnet_from_mars"):
            client.predict(image=handle_file(scan), api_name="/predict")
        answer = client.predict(image=handle_file(scan), checkpoint="org/sound", api_name="/predict")
        assert answer["label"] in LABELS
    assert "resnet_from_mars" in capfd.readouterr().err


def test_a_copy_that_was_not_finished_is_no_copy(hub, files):
    publish(hub, REPO, files)
    hub.fault("model.safetensors", 404)
    with pytest.raises(CheckpointError):
        load_checkpoint(REPO)
    assert cached(REPO) is None
