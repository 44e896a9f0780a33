"""Publishing: one commit and its tag, retries, refusals that change nothing, and the Space; against a local Hub."""

import json
import os
import re
import shlex
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import HfApi, ModelCard, constants
from safetensors.torch import save

from brain_xai import load_checkpoint
from tests.helpers.at_hub import files_of, publish, use
from tests.helpers.local_hub.__main__ import serve
from tests.helpers.scans import LABELS, make_scan, write_scans
from tests.helpers.served import save_tiny_checkpoint
from tests.training.test_card import make_metrics
from training.publish import PushError, check_token, main, push, push_after_training, push_space
from training.publishing import upload
from training.publishing.bundle import bundle
from training.publishing.local_paths import check_no_local_paths
from training.publishing.space import check_front_matter, space_files

# The Hub's client passes `data=` where httpx expects `content=`.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

ROOT = Path(__file__).parents[2]
REPO = "org/tiny"
STORED = r"PUT /storage"


@pytest.fixture
def folder(tmp_path):
    """A finished run, beside files that must not be published."""
    folder = tmp_path / "run"
    save_tiny_checkpoint(folder, LABELS)
    write_metrics(folder, 0.8)
    for seed, name in enumerate(("figures/curves.png", "figures/maps.png", "examples/glioma.png")):
        (folder / name).parent.mkdir(exist_ok=True)
        make_scan("glioma", seed).save(folder / name)
    credit(folder, "glioma.png")
    (folder / "best.safetensors").write_bytes(b"secret")
    (folder / "notes.txt").write_text("secret")
    return folder


def credit(folder, *names):
    lines = [f'{name},glioma,"made by a program, MIT license"' for name in names]
    (folder / "examples" / "cases.csv").write_text("\n".join(["file,label,credit", *lines]) + "\n")


def write_metrics(folder, macro_f1, seed=0):
    metrics = make_metrics() | {"seed": seed}
    metrics["validation"]["macro_f1"] = {"value": macro_f1, "low": macro_f1 - 0.1, "high": 1.0}
    (folder / "metrics.json").write_text(json.dumps(metrics))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with serve(tmp_path / "hub") as hub:
        use(hub.endpoint, tmp_path / "cache", monkeypatch)
        monkeypatch.setattr(upload, "RETRY_DELAYS", (0.01,) * 4)
        yield hub


@contextmanager
def http_server(status):
    """A server that answers every request with a status and nothing else."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_GET  # noqa: N815

        def log_message(self, *arguments):
            """Keep the test's output clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def commits(branch="main"):
    return [commit.commit_id for commit in HfApi().list_repo_commits(REPO, revision=branch)]


def tags():
    return {tag.name: tag.target_commit for tag in HfApi().list_repo_refs(REPO).tags}


def branches():
    return {branch.name: branch.target_commit for branch in HfApi().list_repo_refs(REPO).branches}


def assert_each_file_was_sent_once(hub):
    stored = [request.path.split("?")[0] for request in hub.requests if request.method == "PUT"]
    assert stored
    assert len(stored) == len(set(stored))


# A checkpoint


def test_one_commit_and_a_tag(hub, folder):
    published = push(folder, REPO)
    assert commits()[0] == published.revision
    assert len(commits()) == 2  # the first is the Hub's own
    names = set(HfApi().list_repo_files(REPO))
    assert names == {
        ".gitattributes", "config.json", "model.safetensors", "metrics.json", "README.md",
        "figures/curves.png", "figures/maps.png", "examples/cases.csv", "examples/glioma.png",
    }  # fmt: skip
    assert re.fullmatch(r"run-20\d{6}-[0-9a-f]{8}", published.tag)
    assert tags() == {published.tag: published.revision}
    pulled = load_checkpoint(f"{REPO}@{published.tag}")
    assert pulled.info.revision == published.revision
    scan = folder / "examples" / "glioma.png"
    assert pulled.predict(scan).probabilities == load_checkpoint(folder).predict(scan).probabilities


@pytest.mark.parametrize("cases", [None, "", "file,label,credit\nglioma.png,glioma,\n", "file,credit\nother.png,me\n"])
def test_scans_without_a_license_are_not_published(hub, folder, capsys, cases):
    file = folder / "examples" / "cases.csv"
    file.unlink() if cases is None else file.write_text(cases)
    push(folder, REPO)
    names = HfApi().list_repo_files(REPO)
    assert not [name for name in names if "examples" in name or "maps" in name]
    assert "figures/curves.png" in names
    assert "maps.png" not in ModelCard.load(REPO).text
    assert "they are published once examples/cases.csv" in capsys.readouterr().out


def test_the_published_card_names_the_published_checkpoint(hub, folder):
    published = push(folder, REPO)
    text = ModelCard.load(REPO).text
    assert f'load_checkpoint("{REPO}@{published.tag}")' in text
    assert "FOLDER" not in text


def test_no_published_file_holds_the_token(hub, folder, capfd):
    push(folder, REPO)
    printed = capfd.readouterr()
    token = hub.write_token.encode()
    repository = hub.store.find("models", REPO)
    for name, file in repository.resolve("main").files.items():
        assert token not in repository.read_object(file.sha256), name
    assert hub.write_token not in printed.out + printed.err


def test_a_new_repository_can_be_private_and_the_commit_on_a_branch(hub, folder):
    push(folder, REPO, private=True, revision="next")
    assert HfApi().model_info(REPO).private
    assert "model.safetensors" not in HfApi().list_repo_files(REPO)
    assert "model.safetensors" in HfApi().list_repo_files(REPO, revision="next")


def test_a_private_push_to_a_public_repository_is_refused(hub, folder):
    publish(hub, REPO, {"README.md": b"# public"})
    with pytest.raises(PushError, match="public"):
        push(folder, REPO, private=True)
    assert "model.safetensors" not in HfApi().list_repo_files(REPO)


def test_removed_files_are_deleted_on_the_hub_and_files_of_others_are_kept(hub, folder):
    push(folder, REPO)
    publish(hub, REPO, {"NOTES.md": b"by a colleague", "figures/old.png": b"old", "explanations.json": b"{}"})
    (folder / "examples" / "glioma.png").rename(folder / "examples" / "other.png")
    credit(folder, "other.png")
    push(folder, REPO)
    names = HfApi().list_repo_files(REPO)
    assert {"NOTES.md", "examples/other.png"} <= set(names)
    assert not {"examples/glioma.png", "figures/old.png", "explanations.json"} & set(names)


def test_pushing_the_same_again_makes_no_commit(hub, folder):
    first = push(folder, REPO)
    assert push(folder, REPO).revision == first.revision
    assert_each_file_was_sent_once(hub)


def test_a_better_checkpoint_is_not_replaced_without_overwrite(hub, folder):
    push(folder, REPO)
    write_metrics(folder, 0.79)
    before = commits()
    with pytest.raises(PushError, match=r"better: macro-F1 0\.8000 on validation, this one has 0\.7900"):
        push(folder, REPO)
    assert commits() == before
    push(folder, REPO, overwrite=True)
    write_metrics(folder, 0.81)
    push(folder, REPO)
    assert len(commits()) == len(before) + 2


def test_a_checkpoint_that_cannot_be_compared_is_not_replaced(hub, folder):
    push(folder, REPO)
    write_metrics(folder, 0.99, seed=1)
    with pytest.raises(PushError, match="another split"):
        push(folder, REPO)
    for content in (b"{", b"{}", b"[]"):
        publish(hub, REPO, {"metrics.json": content})
        with pytest.raises(PushError, match="cannot be compared"):
            push(folder, REPO)


# The tag


def names_its_commit(published):
    return tags()[published.tag] == published.revision == load_checkpoint(f"{REPO}@{published.tag}").info.revision


@pytest.mark.parametrize("change", ["maps", "metrics", "worse metrics"])
def test_the_tag_of_a_second_push_of_the_same_weights_names_the_second_commit(hub, folder, change):
    first = push(folder, REPO)
    if change == "maps":
        make_scan("pituitary", 7).save(folder / "figures" / "maps.png")
    else:
        write_metrics(folder, 0.9 if change == "metrics" else 0.5)
    second = push(folder, REPO, overwrite=change == "worse metrics")
    assert second.revision != first.revision
    assert second.tag != first.tag
    assert names_its_commit(first)
    assert names_its_commit(second)


def test_a_tag_is_never_shared_by_two_commits_of_the_same_files(hub, folder):
    first = push(folder, REPO)
    write_metrics(folder, 0.9)
    push(folder, REPO)
    write_metrics(folder, 0.8)
    again, elsewhere = push(folder, REPO, overwrite=True), push(folder, REPO, revision="next")
    assert first.revision != again.revision == elsewhere.revision
    for published in (first, again, elsewhere):
        assert names_its_commit(published)
    assert f'"{REPO}@{again.tag}"' in ModelCard.load(REPO).text


def test_pushes_to_main_and_to_a_branch_get_tags_of_their_own(hub, folder):
    on_main = push(folder, REPO)
    publish(hub, REPO, {"NOTES.md": b"by a colleague"})
    on_branch = push(folder, REPO, revision="next")
    assert branches()["next"] == on_branch.revision != on_main.revision
    assert names_its_commit(on_main)
    assert names_its_commit(on_branch)


def test_a_tag_taken_by_another_commit_is_reported(hub, folder, monkeypatch, capsys):
    """Somebody else creates it after we have listed the tags; the Hub's client ignores the conflict."""
    create_tag = HfApi.create_tag

    def overtaken(api, *arguments, **options):
        create_tag(api, **options | {"revision": commits()[-1]})
        return create_tag(api, *arguments, **options)

    monkeypatch.setattr(HfApi, "create_tag", overtaken)
    assert main(["push", str(folder), REPO]) == 1
    printed = capsys.readouterr().err
    assert f"/commit/{commits()[0]} is on the Hub, but its tag run-" in printed
    assert f"names the commit {commits()[-1]}" in printed
    monkeypatch.undo()


def test_a_tag_created_despite_a_500_answer_counts(hub, folder, monkeypatch):
    create_tag = HfApi.create_tag

    def created_but_500(api, *arguments, **options):
        create_tag(api, *arguments, **options)
        hub.fault("POST .*/tag/", 500)
        create_tag(api, *arguments, **options)

    monkeypatch.setattr(HfApi, "create_tag", created_but_500)
    assert names_its_commit(push(folder, REPO))


def test_only_the_tag_is_missing(hub, folder, capsys):
    hub.fault("POST .*/tag/", 500, times=100)
    assert main(["push", str(folder), REPO]) == 1
    printed, commit = capsys.readouterr().err, commits()[0]
    assert "Not published" not in printed
    assert f"{hub.endpoint}/{REPO}/commit/{commit} is on the Hub, but its tag run-" in printed
    assert "status 500: Fault 500" in printed
    assert "model.safetensors" in HfApi().list_repo_files(REPO)
    hub.clear_faults()
    command = shlex.split(printed.splitlines()[-1])
    assert command[:5] == ["hf", "repos", "tag", "create", REPO]
    done = subprocess.run(
        [Path(sys.executable).with_name("hf"), *command[1:]],
        env=os.environ | hub.environment, capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert tags() == {command[5]: commit}
    assert push(folder, REPO).revision == commit


# A branch


def test_a_worse_checkpoint_goes_to_a_new_branch(hub, folder):
    push(folder, REPO)
    write_metrics(folder, 0.5)
    published = push(folder, REPO, revision="feat/experiment")
    assert branches() == {"main": commits()[0], "feat/experiment": published.revision}
    assert load_checkpoint(f"{REPO}@{published.tag}").metrics["validation"]["macro_f1"]["value"] == 0.5
    write_metrics(folder, 0.4)
    with pytest.raises(PushError, match=r"better: macro-F1 0\.5000"):  # now the branch exists
        push(folder, REPO, revision="feat/experiment")


@pytest.mark.parametrize("status", [409, 503])
def test_a_failed_push_leaves_no_new_branch_behind(hub, folder, status):
    push(folder, REPO)
    before = branches()
    write_metrics(folder, 0.5)
    hub.fault("POST .*/commit/", status, times=5)
    with pytest.raises(PushError):
        push(folder, REPO, revision="next")
    assert branches() == before


def test_a_failed_push_keeps_a_branch_that_existed(hub, folder):
    push(folder, REPO)
    HfApi().create_branch(REPO, branch="next")
    write_metrics(folder, 0.9)
    hub.fault("POST .*/commit/", 409, times=5)
    with pytest.raises(PushError):
        push(folder, REPO, revision="next")
    assert "next" in branches()


def test_conflicts_and_lost_answers_on_a_new_branch_are_survived(hub, folder):
    push(folder, REPO)
    write_metrics(folder, 0.5)
    hub.fault("POST .*/commit/", 412)
    published = push(folder, REPO, revision="next")
    assert branches()["next"] == published.revision
    hub.fault("POST .*/commit/", "lost")
    hub.fault("POST .*/branch/", "lost")
    published = push(folder, REPO, revision="other")
    assert branches()["other"] == published.revision


# Faults and refusals


def test_a_better_checkpoint_is_safe_while_the_hub_does_not_show_its_metrics(hub, folder):
    push(folder, REPO)
    write_metrics(folder, 0.5)
    before = commits()
    hub.fault("/resolve/.*/metrics.json", 409, times=100)
    with pytest.raises(PushError, match=r"refused the request \(status 409"):
        push(folder, REPO)
    assert commits() == before


@pytest.mark.parametrize(
    ("where", "what"),
    [
        (STORED, "drop"),
        (STORED, 503),
        (STORED, "lost"),
        ("POST /api/repos/create", 503),
        ("POST .*/preupload", "drop"),
        ("POST .*/objects/batch", 503),
        ("POST .*/commit", 503),
        ("POST .*/commit", "lost"),
        ("POST .*/tag", 503),
        ("POST .*/validate-yaml", 503),
        ("POST .*/commit", 429),
    ],
)
def test_a_transient_fault_is_survived(hub, folder, where, what):
    before = files_of(folder)
    hub.fault(where, what)
    published = push(folder, REPO)
    assert hub.requests
    assert load_checkpoint(f"{REPO}@{published.tag}").info.revision == published.revision
    assert len(commits()) == 2
    assert files_of(folder) == before


@pytest.mark.parametrize("what", ["lost", 503])
def test_a_push_is_survived_that_cannot_read_the_published_metrics_at_once(hub, folder, what):
    push(folder, REPO)
    write_metrics(folder, 0.9)
    hub.fault("HEAD .*/metrics.json", what)
    assert push(folder, REPO).revision
    assert len(commits()) == 3


def test_an_uploaded_file_is_not_sent_again(hub, folder):
    hub.fault("POST .*/commit", 503, times=2)
    push(folder, REPO)
    assert_each_file_was_sent_once(hub)


def test_a_failed_push_is_resumed_by_the_next(hub, folder):
    hub.fault("POST .*/commit", 503, times=100)
    with pytest.raises(PushError, match=r"unreachable or temporarily unavailable \(status 503: Service unavailable\)"):
        push(folder, REPO)
    assert len(commits()) == 1
    hub.clear_faults()
    push(folder, REPO)
    assert len(commits()) == 2
    assert_each_file_was_sent_once(hub)


def test_after_a_conflict_it_commits_on_the_new_head(hub, folder):
    hub.fault("POST .*/commit/", 412)
    push(folder, REPO)
    assert len(commits()) == 2


def test_a_better_checkpoint_committed_in_the_meantime_is_not_replaced(hub, folder, monkeypatch):
    """The Hub refuses our commit, because the head has moved, and the next comparison sees the better one."""
    better = json.loads((folder / "metrics.json").read_text())
    better["validation"]["macro_f1"]["value"] = 0.95
    publish(hub, REPO, {})
    create_commit = HfApi.create_commit

    def overtaken(*arguments, **options):
        publish(hub, REPO, {"metrics.json": json.dumps(better).encode()})
        return create_commit(*arguments, **options)

    monkeypatch.setattr(HfApi, "create_commit", overtaken)
    with pytest.raises(PushError, match=r"better: macro-F1 0\.9500"):
        push(folder, REPO)
    assert "model.safetensors" not in HfApi().list_repo_files(REPO)


@pytest.mark.parametrize(
    ("status", "sentence"),
    [(401, "does not know this token"), (403, "may not write to org/tiny"), (409, "The Hub refused")],
)
def test_a_refusal_of_the_hub_is_one_sentence(hub, folder, status, sentence):
    hub.fault("POST .*/commit/", status, times=9)
    with pytest.raises(PushError, match=sentence):
        push(folder, REPO)


def test_a_refusal_without_a_message_names_the_status(folder, tmp_path, monkeypatch):
    """The client's own text would end in a link to its documentation."""
    with http_server(404) as endpoint:
        use(endpoint, tmp_path / "cache", monkeypatch)
        with pytest.raises(PushError) as refused:
            push(folder, REPO)
    assert str(refused.value) == "The Hub refused the request (status 404)."


def test_a_token_that_may_only_read(hub, folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub.read_token)
    with pytest.raises(PushError, match="may not write"):
        push(folder, REPO)


@pytest.mark.parametrize("name", ["not a name/at/all", "a/b/c", "onlyname", "org/", "/name", ""])
def test_a_name_that_is_not_org_and_name_is_refused_before_any_request(hub, folder, name):
    with pytest.raises(PushError, match="it must be org/name"):
        push(folder, name)
    with pytest.raises(PushError, match="it must be org/name"):
        push_space(name, ROOT)
    assert hub.requests == []


def test_the_token_can_be_checked_before_a_training(hub, monkeypatch):
    check_token()
    for token, sentence in {"hf_read": "read-only", "hf_wrong": "does not know this token"}.items():
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(PushError, match=sentence):
            check_token()
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PushError, match="There is no token"):
        check_token()


def test_offline_is_not_tried(hub, folder, monkeypatch, capsys):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert main(["push", str(folder), REPO]) == 1
    printed = capsys.readouterr().err
    assert "HF_HUB_OFFLINE is set" in printed
    assert "Next try" not in printed
    with pytest.raises(PushError, match="HF_HUB_OFFLINE is set"):
        check_token()
    assert hub.requests == []


def test_a_missing_folder_is_not_called_safe(hub, tmp_path, capsys):
    assert main(["push", str(tmp_path / "nowhere"), REPO]) == 1
    printed = capsys.readouterr().err
    assert f"There is no folder {tmp_path / 'nowhere'}." in printed
    assert "safe" not in printed
    assert "To try again" not in printed
    assert hub.requests == []


def test_the_same_command_is_suggested_only_if_it_can_help(hub, folder, capsys):
    push(folder, REPO)
    write_metrics(folder, 0.5)
    assert main(["push", str(folder), REPO]) == 1
    printed = capsys.readouterr().err
    assert f"The checkpoint is safe in {folder}." in printed
    assert "To try again" not in printed
    hub.fault(".", 503, times=100)
    assert main(["push", str(folder), REPO, "--overwrite"]) == 1
    assert f"To try again:\n  python -m training.publish push {folder} {REPO} --overwrite" in capsys.readouterr().err


def test_only_measured_checkpoints_are_published(hub, folder):
    (folder / "metrics.json").unlink()
    with pytest.raises(PushError, match=r"has no metrics\.json"):
        push(folder, REPO)
    (folder / "metrics.json").write_text('{"split": "purged"}')
    with pytest.raises(PushError, match="No card can be written"):
        push(folder, REPO)
    with pytest.raises(PushError, match="so it is not a checkpoint"):
        push(folder / "figures", REPO)
    assert hub.requests == []


def test_without_a_token_it_says_how_to_get_one(hub, folder, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN")
    assert main(["push", str(folder), REPO, "--private"]) == 1
    printed = capsys.readouterr().err
    assert "https://huggingface.co/settings/tokens" in printed
    assert f"The checkpoint is safe in {folder}." in printed
    assert printed.splitlines()[-1].strip() == f"python -m training.publish push {folder} {REPO} --private"


def test_a_training_never_fails_because_of_its_push(hub, folder, capsys):
    before = files_of(folder)
    hub.fault(".", 503, times=1000)
    push_after_training(folder, REPO, private=True, revision="next")
    printed = capsys.readouterr().err
    assert "Not published: The Hub is unreachable" in printed
    command = f"python -m training.publish push {folder} {REPO} --private --revision next"
    assert printed.splitlines()[-1].strip() == command
    assert files_of(folder) == before
    (folder / "metrics.json").write_text("{}")  # not even a bug of ours
    push_after_training(folder, REPO, private=False, revision=None)
    assert "Not published" in capsys.readouterr().err


def test_a_success_prints_the_commit_and_how_to_serve_it(hub, folder, capsys):
    assert main(["push", str(folder), REPO]) == 0
    printed = capsys.readouterr().out
    assert f"Published: {hub.endpoint}/{REPO}/commit/{commits()[0]}" in printed
    assert f"BRAIN_XAI_CHECKPOINTS={REPO}@run-" in printed


# The Space


def test_the_space_is_what_the_app_needs_and_no_more(hub):
    published = push_space("org/space", ROOT)
    names = set(HfApi().list_repo_files("org/space", repo_type="space"))
    assert {"app.py", "README.md", "requirements.txt", "LICENSE", "brain_xai/ui/style.css"} <= names
    assert not {name for name in names if name.startswith(("tests/", "training/", "data/", "runs/"))}
    assert not {name for name in names if name.endswith((".pyc", "examples/glioma.png"))}
    info = HfApi().space_info("org/space")
    assert (info.sdk, info.sha) == ("gradio", published.revision)


def test_files_removed_from_the_repository_are_deleted_from_the_space(hub, tmp_path):
    for name, file in space_files(ROOT).items():
        if "bundled" not in name:
            (tmp_path / "site" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "site" / name).write_bytes(file.read_bytes())
    (tmp_path / "site" / "brain_xai" / "old.py").write_text("")
    push_space("org/space", tmp_path / "site")
    assert "brain_xai/old.py" in HfApi().list_repo_files("org/space", repo_type="space")
    (tmp_path / "site" / "brain_xai" / "old.py").unlink()
    push_space("org/space", tmp_path / "site")
    assert "brain_xai/old.py" not in HfApi().list_repo_files("org/space", repo_type="space")


FRONT_MATTER = """---
title: Brain
sdk: gradio
sdk_version: 6.31.0
python_version: "3.12"
app_file: app.py
---
"""


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("app_file: app.py", "app_file: none.py", "app_file must name a file, none.py does not"),
        ("app_file: app.py\n", "", "app_file must name a file"),
        ("sdk: gradio", "sdk: docker", "sdk must be gradio"),
        ('"3.12"', "3.10", "python_version must be quoted"),
        ("6.31.0", '"6"', r"sdk_version must be like 6\.31\.0"),
        ("title: Brain", f"title: Brain\nshort_description: {'long ' * 13}", "may have at most 60 characters"),
        ("---\ntitle", "# Brain\n---\ntitle", "sdk must be gradio"),
        ("title: Brain", "title: [", "cannot be read"),
        ("---\ntitle: Brain", "---\n- title\n---\n", "cannot be read"),
    ],
)
def test_a_space_that_would_not_start_is_refused_before_any_request(hub, tmp_path, old, new, fault):
    (tmp_path / "app.py").touch()
    (tmp_path / "README.md").write_text(FRONT_MATTER)
    check_front_matter(tmp_path)
    assert old in FRONT_MATTER
    (tmp_path / "README.md").write_text(FRONT_MATTER.replace(old, new))
    with pytest.raises(PushError, match=fault):
        push_space("org/space", tmp_path)
    assert hub.requests == []


def test_front_matter_that_the_hub_refuses_stops_the_push_before_a_file_is_sent(hub):
    hub.fault("POST .*/validate-yaml", 400)
    with pytest.raises(PushError, match=r"Invalid metadata in README\.md"):
        push_space("org/space", ROOT)
    assert not [request for request in hub.requests if request.method == "PUT" or "/commit/" in request.path]


def test_the_front_matter_of_this_repository_fits():
    check_front_matter(ROOT)


# Local paths


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("/home/alice/scans", "/home/alice/scans"),
        ("accelerate launch train.py --data-dir /data --model b0", "/data"),
        ("accelerate launch train.py --data-dir=/mnt/scans", "/mnt/scans"),
        ("--data-dir '/home/a b'", "/home/a"),
        ("~/scans", "~/scans"),
        ("--teacher ../alice/run", "../alice/run"),
        ("~alice/scans", "~alice/scans"),
        ("local-dir:/srv/scans", "/srv/scans"),
        ("file:///srv/scans", "file:///srv/scans"),
        (r"C:\Users\alice", r"C:\Users\alice"),
        ("C:/Users/alice", "C:/Users/alice"),
        (r"\\server\scans", r"\\server\scans"),
    ],
)
def test_a_path_of_this_machine_is_not_published(hub, folder, tmp_path, text, path):
    metrics = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps(metrics | {"settings": [{"key": text}]}))
    with pytest.raises(PushError, match="names a path of this machine") as refused:
        push(folder, REPO)
    assert repr(path) in str(refused.value).replace("'\"", "'")
    with pytest.raises(PushError, match="names a path of this machine"):
        bundle(folder, tmp_path / "bundled")
    assert hub.requests == []
    assert not (tmp_path / "bundled").exists()


@pytest.mark.parametrize(
    "text",
    [
        "https://arxiv.org/abs/1610.02391",
        "runs/r18",
        "21.9 images/s",
        "n/a",
        "1 / 2",
        "a: b/c",
        "h:mm:ss",
        "~0.5",
        "x\\y",
    ],
)
def test_text_that_only_resembles_a_path_is_published(hub, folder, text):
    metrics = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps(metrics | {"note": text}))
    assert push(folder, REPO).tag


def test_the_bundled_checkpoints_name_no_path_of_the_machine_that_trained_them():
    for file in sorted((ROOT / "brain_xai" / "bundled").glob("*/*.json")):
        check_no_local_paths({file.name: file})


def test_bundling_a_bundled_checkpoint_again_renders_its_card_and_nothing_else(folder, tmp_path):
    (folder / "official.json").write_text(json.dumps(make_metrics("official")))
    bundle(folder, tmp_path / "bundled")
    before = files_of(tmp_path / "bundled")
    assert "figures/maps.png" not in before
    assert not [name for name in before if name.startswith("examples/")]
    (tmp_path / "bundled" / "README.md").write_text("old")
    bundle(tmp_path / "bundled", tmp_path / "bundled")
    assert files_of(tmp_path / "bundled") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundled", "run"]


def test_weights_that_are_too_large_are_not_bundled(folder, tmp_path, capsys):
    with (folder / "model.safetensors").open("r+b") as weights:
        weights.truncate(13_000_001)
    assert main(["bundle", str(folder), str(tmp_path / "bundled")]) == 1
    assert capsys.readouterr().err == f"Not bundled: {folder}/model.safetensors is over 13 MB, the limit of a bundle.\n"
    assert not (tmp_path / "bundled").exists()


# A training that starts from the Hub's weights and publishes its result


def train(hub, tmp_path, *more, token="hf_write"):
    """Run the training command for one epoch from timm's weights on the local Hub."""
    data = write_scans(tmp_path / "data", train=12, test=4)
    arguments = shlex.split(
        f"training/train.py --data-dir {data} --output-dir {tmp_path / 'out'} --model test_resnet --pretrained "
        "--sizes 32:1 --batch-size 8 --ema-decay 0 --drop-rate 0 --validation-fraction 0.3 --seed 1"
    )
    environment = os.environ | hub.environment | {
        "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": token,
        "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    return subprocess.run(
        [*launch, *arguments, *more],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=280,
    )  # fmt: skip


def test_fine_tuning_starts_from_the_weights_on_the_hub_and_ends_there(hub, tmp_path):
    torch.manual_seed(5)
    start = timm.create_model("test_resnet", num_classes=1000)
    hub_id = start.pretrained_cfg["hf_hub_id"]
    assert hub_id == "timm/test_resnet.r160_in1k"
    weights = save({name: value.contiguous() for name, value in start.state_dict().items()})
    publish(hub, hub_id, {"model.safetensors": weights, "config.json": b"{}"})
    # At a learning rate of zero only the running means and variances change.
    done = train(hub, tmp_path, "--learning-rate", "0", "--push-to-hub", "org/tuned", "--private")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Initial weights: timm's pretrained weights of test_resnet" in done.stdout
    assert f"Published: {hub.endpoint}/org/tuned/commit/" in done.stdout
    tuned = load_checkpoint("org/tuned")
    before, after = start.state_dict(), tuned.model.state_dict()
    same = [name for name in before if name.endswith("weight") and not name.startswith("fc.")]
    assert len(same) > 10
    for name in same:
        torch.testing.assert_close(after[name], before[name], atol=1e-3, rtol=1e-3)  # stored in half precision
    assert after["fc.weight"].shape[0] == len(LABELS)
    card = ModelCard.load("org/tuned")
    assert (card.data.base_model, card.data.base_model_relation) == (hub_id, "finetune")
    names = HfApi().list_repo_files("org/tuned")
    assert {"figures/curves.png", "metrics.json"} <= set(names)
    assert not {name for name in names if "examples" in name or "maps" in name}  # nobody has given them a license
    assert "they are published once examples/cases.csv" in done.stdout
    assert "push_to_hub" not in json.loads(files_of(tmp_path / "out")["config.json"])["brain_xai"]["training"]


def test_training_succeeds_where_the_push_does_not(hub, tmp_path):
    done = train(hub, tmp_path, "--no-pretrained", "--push-to-hub", "org/tuned", token="")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "nothing will be published at the end. There is no token" in done.stdout.splitlines()[0]  # in time
    assert "Not published: There is no token" in done.stderr
    assert f"python -m training.publish push {tmp_path / 'out'} org/tuned" in done.stderr
    assert load_checkpoint(tmp_path / "out").metrics["split"] == "purged"


# The four loaders


def test_four_loaders_in_a_process_of_their_own_give_equal_logits(hub, folder, tmp_path):
    published = push(folder, REPO)
    make_scan("pituitary", 3, side=100).convert("RGB").save(tmp_path / "scan.png")
    code = f"""
import json, timm, torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline
from brain_xai import load_checkpoint

revision, image = "{published.tag}", Image.open("{tmp_path / "scan.png"}")
classifier = load_checkpoint(f"{REPO}@{{revision}}")
ours = classifier.logits(classifier.prepare("{tmp_path / "scan.png"}").pixel_values)[0]
model = timm.create_model(f"hf-hub:{REPO}@{{revision}}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
processor = AutoImageProcessor.from_pretrained("{REPO}", revision=revision)
auto = AutoModelForImageClassification.from_pretrained("{REPO}", revision=revision).eval()
pipe = pipeline("image-classification", model="{REPO}", revision=revision, top_k=None)
with torch.inference_mode():
    of_timm = model(transform(image)[None])[0]
    of_auto = auto(processor(image, return_tensors="pt")["pixel_values"]).logits[0]
of_pipe = {{answer["label"]: answer["score"] for answer in pipe(image)}}
print(json.dumps([ours.tolist(), of_timm.tolist(), of_auto.tolist(),
                  [of_pipe[label] for label in classifier.label_names], ours.softmax(0).tolist()]))
"""
    environment = os.environ | hub.environment | {"HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ours, of_timm, of_auto, of_pipe, probabilities = json.loads(done.stdout.splitlines()[-1])
    assert max(ours) - min(ours) > 0.01
    assert of_timm == pytest.approx(ours, abs=1e-5)
    assert of_auto == pytest.approx(ours, abs=1e-5)
    assert of_pipe == pytest.approx(probabilities, abs=1e-5)
