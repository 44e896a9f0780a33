"""Checkpoints from the Hub: the right commit, no unsafe content, and an answer whatever the Hub does."""

import gc
import json
import os
import socket
import subprocess
import sys
import weakref
from hashlib import sha256
from pathlib import Path

import pytest
from gradio_client import Client, handle_file
from huggingface_hub import constants, snapshot_download
from PIL import Image
from safetensors.torch import load, save

from brain_xai import explain, load_checkpoint
from brain_xai.checkpoint import hub as pulling
from brain_xai.checkpoint import schema
from brain_xai.checkpoint.catalog import bundled_checkpoints, checkpoint_folder
from brain_xai.checkpoint.hub import HubUnreachable, cached
from brain_xai.checkpoint.schema import CheckpointError
from brain_xai.ui import api, hub_follower
from brain_xai.ui.inputs import UserError
from tests.helpers.at_hub import files_of, publish, use
from tests.helpers.local_hub.__main__ import Hub, serve
from tests.helpers.local_hub.store import File
from tests.helpers.scans import LABELS, make_scan
from tests.helpers.served import save_tiny_checkpoint, served

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, bytes]:
    """The files of a published checkpoint."""
    folder = tmp_path_factory.mktemp("tiny")
    save_tiny_checkpoint(folder, LABELS)
    (folder / "examples").mkdir()
    make_scan("glioma", 0).save(folder / "examples" / "glioma.png")
    (folder / "examples" / "cases.csv").write_text("file,label\nglioma.png,glioma\n")
    return files_of(folder)


@pytest.fixture
def repo(tmp_path) -> str:
    """An id that only this test uses, because a process keeps one follower per id."""
    return f"org/{tmp_path.name}"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    wait_for_the_hub(monkeypatch, 100)
    with serve(tmp_path / "hub") as hub:
        use(hub.endpoint, tmp_path / ".cache", monkeypatch)  # hidden, as it is in a home folder
        yield hub


def wait_for_the_hub(monkeypatch, seconds: float) -> None:
    """Set how long requests wait for a refresh; with short waits, answers would depend on how busy the machine is."""
    monkeypatch.setattr(pulling, "ANSWER_SECONDS", 100)
    monkeypatch.setattr(hub_follower, "DOWNLOAD_WAIT_SECONDS", seconds)
    monkeypatch.setattr(hub_follower, "REFRESH_WAIT_SECONDS", seconds)


@pytest.fixture
def scan(tmp_path) -> Path:
    path = tmp_path / "scan.png"
    make_scan("glioma", 1, side=90).save(path)
    return path


def other_weights(files: dict[str, bytes], change=lambda value: value + 1) -> dict[str, bytes]:
    weights = load(files["model.safetensors"])
    return {"model.safetensors": save(weights | {"fc.bias": change(weights["fc.bias"])})}


def go_away(hub: Hub) -> None:
    """Let every further request fail."""
    hub.fault(".", 503, times=10**6)


def asked(hub: Hub) -> list[str]:
    return [request.path for request in hub.requests]


def codes(classifier) -> list[str]:
    return [warning.code for warning in classifier.warnings]


# Which commit answers


def test_the_commit_is_the_revision_and_the_newest_one_answers(hub, files, scan, repo):
    first = publish(hub, repo, files)
    classifier = load_checkpoint(repo)
    assert (classifier.info.id, classifier.info.revision) == (repo, first)
    assert classifier.predict(scan).checkpoint.revision == first
    second = publish(hub, repo, other_weights(files))
    assert load_checkpoint(repo).info.revision == second
    assert load_checkpoint(f"{repo}@{first}").info.revision == first
    assert load_checkpoint(f"{repo}@{first}").predict(scan).probabilities == classifier.predict(scan).probabilities
    assert load_checkpoint(repo).predict(scan).probabilities != classifier.predict(scan).probabilities


def test_a_branch_is_followed_by_its_name(hub, files, repo):
    publish(hub, repo, files)
    on_branch = publish(hub, repo, other_weights(files), branch="next")
    assert load_checkpoint(f"{repo}@next").info.revision == on_branch != load_checkpoint(repo).info.revision


def test_a_pinned_commit_is_downloaded_once_and_the_hub_is_not_asked_again(hub, files, repo):
    sha = publish(hub, repo, files)
    load_checkpoint(f"{repo}@{sha}")
    before = len(hub.requests)
    go_away(hub)
    assert codes(load_checkpoint(f"{repo}@{sha}")) == []
    assert codes(hub_follower.classifier_of(f"{repo}@{sha}")) == []
    assert len(hub.requests) == before


def test_only_needed_files_are_downloaded(hub, files, repo):
    publish(hub, repo, files | {"code.py": b"", "optimizer.bin": b"", "figures/curves.png": b"", "more/x.json": b"{}"})
    load_checkpoint(repo)
    folder = checkpoint_folder(repo)
    assert set(files_of(folder)) == {
        "config.json",
        "model.safetensors",
        "metrics.json",
        "examples/cases.csv",
        "examples/glioma.png",
    }


def test_of_many_examples_only_some_are_downloaded(hub, files, repo):
    publish(hub, repo, files | {f"examples/{number}.png": b"" for number in range(60)})
    load_checkpoint(repo)
    names = set(files_of(checkpoint_folder(repo)))
    assert {"config.json", "metrics.json", "model.safetensors"} < names
    assert len(names) == 51


def test_without_the_hub_the_cached_copy_answers_with_a_warning(hub, files, scan, repo):
    sha = publish(hub, repo, files)
    load_checkpoint(repo)
    go_away(hub)
    publish(hub, repo, other_weights(files))
    before = len(hub.requests)
    classifier = load_checkpoint(repo)
    assert len(hub.requests) == before + 1  # not retried for half a minute
    assert classifier.info.revision == sha
    [warning] = classifier.predict(scan).warnings
    assert warning.code == "hub_unreachable"
    assert sha[:12] in warning.message


def test_without_the_hub_and_a_cached_copy_the_error_comes_at_once(hub, files, repo):
    publish(hub, repo, files)
    go_away(hub)
    with pytest.raises(HubUnreachable, match="cannot be downloaded from the Hub now"):
        load_checkpoint(repo)
    assert len(hub.requests) == 1  # not retried for half a minute


@pytest.mark.parametrize("fault", ["drop", "truncate"])
def test_an_interrupted_download_is_resumed(hub, files, fault, repo):
    sha = publish(hub, repo, files)
    hub.fault("GET .*model.safetensors|GET /storage", fault)
    assert load_checkpoint(repo).info.revision == sha


# What is rejected


def test_a_repository_that_is_missing_or_hidden(hub, files, repo):
    for name in ("org/missing", f"{repo}@nowhere"):
        with pytest.raises(CheckpointError, match="Check the spelling and"):
            load_checkpoint(name)
    publish(hub, repo, files)
    for status in (401, 403, 404):
        hub.fault("GET /api/models", status)
        with pytest.raises(CheckpointError, match="does not show it"):
            load_checkpoint(repo)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model.safetensors": None, "pytorch_model.bin": b"\x80\x04"}, "only pickled weights, which could run code"),
        ({"model.safetensors": None}, "no model.safetensors"),
        ({"../../evil.png": b""}, "point outside it"),
        ({"examples/../../evil.png": b""}, "point outside it"),
        ({"metrics.json": bytes(6_000_000)}, "metrics.json has 6 MB"),
        ({"config.json": None}, "has no config.json"),
    ],
)
def test_an_unsafe_or_incomplete_repository_is_rejected(hub, files, change, sentence, repo):
    content = {name: content for name, content in (files | change).items() if content is not None}
    publish(hub, repo, content)
    with pytest.raises(CheckpointError, match=sentence):
        load_checkpoint(repo)
    assert not any("resolve" in path or "storage" in path for path in asked(hub))


def test_huge_weights_are_rejected_before_the_download(hub, files, monkeypatch, repo):
    monkeypatch.setattr(schema, "MAX_WEIGHTS_BYTES", len(files["model.safetensors"]) - 1)
    publish(hub, repo, files)
    with pytest.raises(CheckpointError, match="at most"):
        load_checkpoint(repo)
    assert not any("model.safetensors" in path or "storage" in path for path in asked(hub))


# What the app does


def test_a_new_revision_is_served_without_a_restart(hub, files, repo):
    first = publish(hub, repo, files)
    assert hub_follower.classifier_of(repo).info.revision == first
    second = publish(hub, repo, other_weights(files))
    before = len(hub.requests)
    assert hub_follower.classifier_of(repo).info.revision == first  # checked a moment ago
    assert len(hub.requests) == before
    refresh(repo)
    assert hub_follower.classifier_of(repo).info.revision == second
    assert codes(hub_follower.classifier_of(repo)) == []


def refresh(name: str) -> None:
    """Let the time until the next check of the Hub pass, and wait for the check."""
    follower = hub_follower.follower_of(name)
    follower._next_refresh = 0
    follower.refresh()
    assert follower._refresh_done.wait(60)


def test_a_new_revision_that_fails_to_load_changes_nothing(hub, files, scan, capfd, repo):
    first = publish(hub, repo, files)
    hub_follower.classifier_of(repo)
    publish(hub, repo, other_weights(files, lambda value: value * float("nan")))
    refresh(repo)
    classifier = hub_follower.classifier_of(repo)
    assert classifier.info.revision == first
    assert codes(classifier) == ["revision_refused"]
    assert "not numbers" in capfd.readouterr().err  # the reason, for the maintainer
    third = publish(hub, repo, files)
    refresh(repo)
    assert hub_follower.classifier_of(repo).info.revision == third
    assert codes(hub_follower.classifier_of(repo)) == []


def test_while_the_hub_is_down_the_cached_copy_answers_and_afterwards_the_new_revision(hub, files, repo):
    first = publish(hub, repo, files)
    hub_follower.classifier_of(repo)
    go_away(hub)
    refresh(repo)
    assert hub_follower.classifier_of(repo).info.revision == first
    assert codes(hub_follower.classifier_of(repo)) == ["hub_unreachable"]
    hub.clear_faults()
    second = publish(hub, repo, other_weights(files))
    refresh(repo)
    assert hub_follower.classifier_of(repo).info.revision == second
    assert codes(hub_follower.classifier_of(repo)) == []


def test_only_allowed_names_reach_the_hub(hub, files, scan, monkeypatch, repo):
    publish(hub, repo, files)
    monkeypatch.setenv("BRAIN_XAI_CHECKPOINTS", repo)
    upload = {"path": str(scan), "orig_name": "scan.png"}
    for name in ("org/other", f"{repo}@main", f"{repo}/../other"):
        with pytest.raises(UserError, match="no such checkpoint"):
            api.predict(upload, name)
    assert hub.requests == []


def test_the_page_serves_a_checkpoint_of_the_hub_with_its_examples(hub, files, scan, repo):
    sha = publish(hub, repo, files)
    with served(f"{repo}@{sha}", repo) as (page, address):
        client = Client(address, verbose=False, analytics_enabled=False)
        answer = client.predict(image=handle_file(scan), api_name="/predict")
        assert answer["checkpoint"] == {"id": f"{repo}@{sha}", "revision": sha, "architecture": "test_resnet"}
        assert answer["warnings"] == []
        assert [entry["revision"] for entry in client.predict(api_name="/checkpoints")] == [sha, sha]
        [strip] = [block for block in page.blocks.values() if block.elem_id == "cases"]
        sizes = []
        for file in strip.keep_in_cache:
            with Image.open(file) as shown:
                sizes.append(shown.size)
        assert (64, 64) in sizes


def test_without_fallback_no_other_model_answers(hub, files, repo):
    publish(hub, repo, files)
    go_away(hub)
    assert hub_follower.classifier_of(repo, allow_fallback=True).info.id == bundled_checkpoints()[0]
    with pytest.raises(CheckpointError, match=r"cannot be downloaded .*No other model answers in its place"):
        hub_follower.classifier_of(repo, allow_fallback=False)
    hub.clear_faults()
    refresh(repo)
    assert hub_follower.classifier_of(repo, allow_fallback=False).info.id == repo
    go_away(hub)
    refresh(repo)  # an outdated copy is still the checkpoint that was asked for
    assert codes(hub_follower.classifier_of(repo, allow_fallback=False)) == ["hub_unreachable"]


@pytest.fixture
def black_hole():
    """The address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_without_fallback_a_download_that_takes_long_is_an_error(black_hole, tmp_path, monkeypatch):
    use(black_hole, tmp_path / "cache", monkeypatch)
    wait_for_the_hub(monkeypatch, 0.1)
    with pytest.raises(CheckpointError, match=r"is still being downloaded .*Try again in a few minutes"):
        hub_follower.classifier_of("org/endless", allow_fallback=False)


def test_with_a_hub_that_never_answers_the_page_is_up_and_a_bundled_model_answers(
    black_hole, tmp_path, monkeypatch, scan, repo
):
    use(black_hole, tmp_path / "cache", monkeypatch)
    monkeypatch.setattr(pulling, "ANSWER_SECONDS", 600)  # longer than a test may take: nothing waits for the Hub
    with served(repo) as (_, address):
        client = Client(address, verbose=False, analytics_enabled=False)
        with pytest.raises(Exception, match="No other model answers in its place"):
            client.predict(image=handle_file(scan), api_name="/predict")
        assert client.predict(api_name="/checkpoints") == []
        classifier = hub_follower.classifier_of(repo)
        assert classifier.info.id == bundled_checkpoints()[0]
        assert classifier.model is load_checkpoint(bundled_checkpoints()[0]).model
        warnings = {warning.code: warning.message for warning in classifier.predict(scan).warnings}
        assert f"{repo} could not be fetched" in warnings["hub_unreachable"]


def test_a_default_that_cannot_be_loaded_does_not_keep_the_page_from_starting(
    hub, files, scan, monkeypatch, capfd, repo
):
    config = json.loads(files["config.json"]) | {"architecture": "resnet_from_mars"}
    publish(hub, repo, files | {"config.json": json.dumps(config).encode()})
    publish(hub, "org/sound", files)
    with served(repo, "org/sound") as (_, address):
        client = Client(address, verbose=False, analytics_enabled=False)
        with pytest.raises(Exception, match=r"cannot be loaded at the moment.*resnet_from_mars"):
            client.predict(image=handle_file(scan), api_name="/predict")
        answer = client.predict(image=handle_file(scan), checkpoint="org/sound", api_name="/predict")
        assert answer["label"] in LABELS
    assert "resnet_from_mars" in capfd.readouterr().err


def test_an_incomplete_download_is_not_used(hub, files, repo):
    publish(hub, repo, files)
    hub.fault("model.safetensors", 404)
    with pytest.raises(CheckpointError):
        load_checkpoint(repo)
    assert cached(repo) is None


# What is remembered


def test_the_last_revision_that_loaded_answers_while_the_hub_is_away(hub, files, repo, scan):
    first = publish(hub, repo, files)
    answer = load_checkpoint(repo).predict(scan)
    publish(hub, repo, {"config.json": b"{}"})
    with pytest.raises(CheckpointError, match="which timm does not know"):
        load_checkpoint(repo)
    go_away(hub)
    classifier = load_checkpoint(repo)
    assert (classifier.info.revision, codes(classifier)) == (first, ["hub_unreachable"])
    assert classifier.predict(scan).probabilities == answer.probabilities


def test_a_restart_serves_the_last_revision_that_loaded(hub, files, repo, tmp_path):
    first = publish(hub, repo, files)
    hub_follower.classifier_of(repo)
    publish(hub, repo, {"config.json": b"{}"})
    refresh(repo)
    restarted = hub_follower.HubFollower(repo)
    restarted.refresh()
    assert restarted._refresh_done.wait(60)
    assert restarted.classifier().info.revision == first
    assert codes(restarted.classifier()) == ["revision_refused"]
    go_away(hub)
    code = """
import sys
from brain_xai import explain, load_checkpoint
from brain_xai.ui import hub_follower
hub_follower.DOWNLOAD_WAIT_SECONDS = hub_follower.REFRESH_WAIT_SECONDS = 60
for load in (hub_follower.classifier_of, load_checkpoint):
    print(load(sys.argv[1]).info.revision)
"""
    new_process = subprocess.run(
        [sys.executable, "-c", code, repo],
        env=os.environ | hub.environment | {"HF_HOME": str(tmp_path / ".cache"), "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert new_process.stdout.split() == [first, first], new_process.stderr


def test_without_the_hub_a_copy_that_another_program_downloaded_answers(hub, files, repo):
    sha = publish(hub, repo, files)
    snapshot_download(repo)
    go_away(hub)
    assert load_checkpoint(repo).info.revision == sha
    assert hub_follower.classifier_of(repo).info.revision == sha


def test_without_the_hub_a_damaged_copy_is_replaced_by_a_bundled_checkpoint(hub, files, repo):
    publish(hub, repo, files)
    snapshot_download(repo)
    weights = checkpoint_folder(repo) / "model.safetensors"
    weights.resolve().write_bytes(weights.read_bytes()[:-100])
    go_away(hub)
    assert hub_follower.classifier_of(repo).info.id == bundled_checkpoints()[0]
    with pytest.raises(CheckpointError, match="No other model answers in its place"):
        hub_follower.classifier_of(repo, allow_fallback=False)


def test_a_damaged_copy_is_downloaded_again(hub, files, repo):
    sha = publish(hub, repo, files)
    snapshot_download(repo)
    weights = checkpoint_folder(repo) / "model.safetensors"
    weights.resolve().write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="not the file that the Hub lists"):
        load_checkpoint(repo)
    assert load_checkpoint(repo).info.revision == sha


# Downloads that are not what the Hub lists


def test_weights_with_another_sha256_are_rejected_and_not_kept(hub, files, repo):
    sha = publish(hub, repo, files)
    stored = hub.store.find("models", repo).folder / "objects" / sha256(files["model.safetensors"]).hexdigest()
    stored.write_bytes(other_weights(files)["model.safetensors"])
    with pytest.raises(CheckpointError, match="not the file that the Hub lists"):
        load_checkpoint(repo)
    assert cached(repo) is None
    assert cached(f"{repo}@{sha}") is None
    stored.write_bytes(files["model.safetensors"])
    assert load_checkpoint(repo).info.revision == sha


def test_weights_of_another_revision_are_rejected_and_the_last_good_revision_stays(hub, files, repo, scan, monkeypatch):
    first = publish(hub, repo, files)
    answer = load_checkpoint(repo).predict(scan)
    publish(hub, repo, other_weights(files))
    # Some servers send the ETag of another revision, and the client then takes that file from its cache.
    digests = {sha256(content["model.safetensors"]).hexdigest() for content in (files, other_weights(files))}
    wrong = property(
        lambda file: sha256(files["model.safetensors"]).hexdigest() if file.sha256 in digests else file.oid
    )
    monkeypatch.setattr(File, "etag", wrong)
    with pytest.raises(CheckpointError, match="not the file that the Hub lists"):
        load_checkpoint(repo)
    go_away(hub)
    assert load_checkpoint(repo).info.revision == first
    assert load_checkpoint(repo).predict(scan).probabilities == answer.probabilities


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "examples/glioma.png"])
def test_files_of_unknown_size_are_rejected_before_the_download(hub, files, repo, name):
    sha = publish(hub, repo, files)
    record = hub.store.find("models", repo).folder / "commits" / f"{sha}.json"
    commit = json.loads(record.read_text())
    commit["files"][name]["size"] = None
    record.write_text(json.dumps(commit))
    with pytest.raises(CheckpointError, match=f"does not say how large {name} is"):
        load_checkpoint(repo)
    assert not any("resolve" in path or "storage" in path for path in asked(hub))


# What the warnings say


def test_in_offline_mode_the_hub_is_not_asked_again(hub, files, repo, monkeypatch, capfd):
    sha = publish(hub, repo, files)
    load_checkpoint(repo)
    before = len(hub.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub_follower, "RETRY_SECONDS", 0)
    for _ in range(3):
        follower = hub_follower.follower_of(repo)
        classifier = follower.classifier()
        assert follower._refresh_done.wait(60)
        assert (classifier.info.revision, codes(classifier)) == (sha, ["hub_unreachable"])
    assert capfd.readouterr().err.count("in offline mode") == 1
    with pytest.raises(HubUnreachable, match="in offline mode"):
        load_checkpoint("org/never-downloaded")
    assert len(hub.requests) == before


def test_the_warning_about_a_deleted_repository_says_so(hub, files, repo):
    sha = publish(hub, repo, files)
    hub_follower.classifier_of(repo)
    hub.store.delete(hub.store.find("models", repo))
    refresh(repo)
    classifier = hub_follower.classifier_of(repo)
    assert (classifier.info.revision, codes(classifier)) == (sha, ["removed_from_hub"])
    assert "no longer on the Hub" in classifier.warnings[0].message


def test_the_first_answer_while_the_hub_hangs_carries_a_warning(hub, files, repo, black_hole, tmp_path, monkeypatch):
    sha = publish(hub, repo, files)
    load_checkpoint(repo)
    use(black_hole, tmp_path / ".cache", monkeypatch)
    wait_for_the_hub(monkeypatch, 0.1)
    classifier = hub_follower.HubFollower(repo).classifier()
    assert (classifier.info.revision, codes(classifier)) == (sha, ["hub_unreachable"])
    assert "has not finished answering" in classifier.warnings[0].message


# What is kept in memory


def test_every_allowed_checkpoint_is_loaded_once(hub, files, repo, monkeypatch):
    names = [f"{repo}-{number}" for number in range(5)]
    for name in names:
        publish(hub, name, files)
    monkeypatch.setenv("BRAIN_XAI_CHECKPOINTS", ",".join(names))
    first = [hub_follower.classifier_of(name).model for name in names]
    for _ in range(2):
        assert all(hub_follower.classifier_of(name).model is model for name, model in zip(names, first, strict=True))
        assert all(load_checkpoint(name).model is model for name, model in zip(names, first, strict=True))


def test_warnings_do_not_load_a_model_again(hub, files, repo):
    publish(hub, repo, files)
    loaded = hub_follower.classifier_of(repo)
    go_away(hub)
    refresh(repo)
    for classifier in (load_checkpoint(repo), hub_follower.classifier_of(repo)):
        assert codes(classifier) == ["hub_unreachable"]
        assert classifier.model is loaded.model
        assert classifier.facts is loaded.facts  # the private copy and all measurements, too


def test_an_outdated_revision_is_freed(hub, files, repo, scan):
    publish(hub, repo, files)
    classifier = hub_follower.classifier_of(repo)
    explain(classifier, scan)
    outdated = weakref.ref(classifier.model)
    del classifier
    publish(hub, repo, other_weights(files))
    refresh(repo)
    gc.collect()
    assert outdated() is None
