"""The local Hub, as the real clients see it: each of them in a process and with a cache of its own."""

import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path
from textwrap import dedent

import pytest

from tests.helpers.local_hub.__main__ import serve
from tests.helpers.local_hub.faults import Fault

ROOT = Path(__file__).parents[2]
PREAMBLE = """
import json, os
from pathlib import Path
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
api = HfApi()
def outcome(action, *arguments, **settings):
    try:
        action(*arguments, **settings)
        return "done"
    except Exception as error:
        response = getattr(error, "response", None)
        return type(error).__name__ + (f" {response.status_code}" if response is not None else "")
"""


@pytest.fixture
def hub(tmp_path):
    with serve(tmp_path / "root") as hub:
        yield hub


@pytest.fixture
def run(hub, tmp_path):
    """Return a function that runs code in a new process and returns what it puts into `answer`."""

    def in_new_process(code: str, **environment: str):
        own = {"HF_HOME": tempfile.mkdtemp(dir=tmp_path), "HF_HUB_DISABLE_PROGRESS_BARS": "1", "PYTHONPATH": str(ROOT)}
        code = f"{PREAMBLE}\n{dedent(code)}\nprint(json.dumps(answer))"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | hub.environment | own | environment,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return in_new_process


@pytest.fixture
def folder(tmp_path):
    """A folder to push: a large file, a card and a small file one level down."""
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 1000)
    (folder / "README.md").write_text("---\nlibrary_name: timm\nlicense: mit\ntags: [mri]\n---\nA card.\n")
    (folder / "sub" / "notes.txt").write_text("first")
    return folder


def connect(hub) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(hub.endpoint.removeprefix("http://"))


def uploads(hub) -> list[str]:
    """Return the SHA-256 of the large files that arrived, in order."""
    arrived = [request for request in hub.requests if request.method == "PUT" and request.status == 200]
    return [request.path.split("/")[-1] for request in arrived]


def test_a_folder_is_pushed_and_pulled_at_every_revision(hub, run, folder):
    answer = run("""
        answer = {"user": api.whoami()["name"], "url": api.create_repo("org/tiny", private=True)}
        api.create_repo("org/tiny", exist_ok=True)
        first = api.upload_folder(repo_id="org/tiny", folder_path="folder").oid
        again = api.upload_folder(repo_id="org/tiny", folder_path="folder").oid
        api.create_tag("org/tiny", tag="v1")
        api.create_branch("org/tiny", branch="trial", revision="v1")
        api.upload_file(path_or_fileobj=b"second", path_in_repo="sub/notes.txt", repo_id="org/tiny")
        api.delete_file("README.md", "org/tiny")
        refs, info = api.list_repo_refs("org/tiny"), api.model_info("org/tiny", revision="v1", files_metadata=True)
        answer |= {
            "shas": [first, again, info.sha, *(ref.target_commit for ref in refs.tags)],
            "head": next(ref.target_commit for ref in refs.branches if ref.name == "main"),
            "files": {name: api.list_repo_files("org/tiny", revision=name) for name in ("v1", "main", "trial")},
            "notes": [Path(snapshot_download("org/tiny", revision=name), "sub/notes.txt").read_text()
                      for name in ("main", "v1", "trial", first, first[:7])],
            "weights": Path(hf_hub_download("org/tiny", "model.safetensors")).read_bytes().hex()
                       == Path("folder/model.safetensors").read_bytes().hex(),
            "sizes": {file.rfilename: file.size for file in info.siblings},
            "large": [file.rfilename for file in info.siblings if file.lfs],
            "card": [info.private, info.library_name, info.tags, info.card_data.license],
            "titles": [commit.title for commit in api.list_repo_commits("org/tiny")],
            "infos": [(i.path, i.last_commit.oid) for i in api.get_paths_info(
                "org/tiny", ["sub", "sub/notes.txt", "model.safetensors", "missing"], expand=True)],
        }
        api.delete_tag("org/tiny", tag="v1")
        api.delete_branch("org/tiny", branch="trial")
        refs = api.list_repo_refs("org/tiny")
        answer["left"] = [ref.name for ref in refs.branches + refs.tags]
        """)
    repository = hub.store.find("models", "org/tiny")
    first = answer["shas"][0]
    assert answer["user"] == "tester"
    assert answer["url"] == f"{hub.endpoint}/org/tiny"
    assert answer["shas"] == [first] * 4  # an unchanged folder makes no commit, and the tag stays behind
    assert answer["head"] == repository.resolve("main").sha != first
    before = [".gitattributes", "README.md", "model.safetensors", "sub/notes.txt"]
    assert answer["files"] == {"v1": before, "trial": before, "main": [name for name in before if name != "README.md"]}
    assert answer["notes"] == ["second", "first", "first", "first", "first"]
    assert answer["weights"] is True
    assert answer["sizes"]["model.safetensors"] == 256_000
    assert answer["large"] == ["model.safetensors"]
    assert answer["card"] == [True, "timm", ["timm", "mri", "license:mit"], "mit"]
    assert answer["titles"][-1] == "initial commit"
    assert len(answer["titles"]) == 4
    second = repository.resolve("main").parent
    assert dict(answer["infos"]) == {"sub": second, "sub/notes.txt": second, "model.safetensors": first}
    assert answer["left"] == ["main"]
    assert len(uploads(hub)) == 1


def test_refusals_are_those_of_the_real_hub(run, folder):
    answer = run("""
        api.create_repo("org/open"); api.create_repo("org/closed", private=True); api.create_repo("org/gated")
        api.update_repo_settings("org/gated", gated="auto")
        old = api.model_info("org/open").sha
        push = dict(repo_id="org/open", path_or_fileobj=b"1", path_in_repo="a.txt")
        api.upload_file(**push)
        api.create_tag("org/open", tag="v1")
        nobody, reader, stranger = HfApi(token=False), HfApi(token="hf_read"), HfApi(token="hf_wrong")
        bad_card = b"---\\nlicense: [mit\\n---\\n"
        answer = {
            "write as nobody": outcome(nobody.upload_file, **push),
            "write as reader": outcome(reader.upload_file, **push),
            "create as reader": outcome(reader.create_repo, "org/other"),
            "read as stranger": outcome(stranger.model_info, "org/open"),
            "read as nobody": outcome(nobody.model_info, "org/open"),
            "closed as nobody": outcome(nobody.model_info, "org/closed"),
            "closed as reader": outcome(reader.model_info, "org/closed"),
            "closed file as nobody": outcome(hf_hub_download, "org/closed", ".gitattributes", token=False),
            "gated as nobody": outcome(hf_hub_download, "org/gated", ".gitattributes", token=False),
            "gated as reader": outcome(hf_hub_download, "org/gated", ".gitattributes", token="hf_read"),
            "no repository": outcome(api.model_info, "org/missing"),
            "no revision": outcome(hf_hub_download, "org/open", "a.txt", revision="v2"),
            "no file": outcome(hf_hub_download, "org/open", "b.txt"),
            "no folder": outcome(lambda: list(api.list_repo_tree("org/open", "sub"))),
            "nothing to delete": outcome(api.delete_file, "b.txt", "org/open"),
            "repository taken": outcome(api.create_repo, "org/open"),
            "tag taken": outcome(api.create_tag, "org/open", tag="v1"),
            "head has moved": outcome(api.upload_file, **push | {"path_or_fileobj": b"2"}, parent_commit=old),
            "delete main": outcome(api.delete_branch, "org/open", branch="main"),
            "bad card": outcome(api.upload_file, **push | {"path_in_repo": "README.md", "path_or_fileobj": bad_card}),
        }
        api.delete_repo("org/open")
        answer["deleted"] = outcome(api.model_info, "org/open")
        """)
    assert answer == {
        "write as nobody": "HfHubHTTPError 401",
        "write as reader": "HfHubHTTPError 403",
        "create as reader": "HfHubHTTPError 403",
        "read as stranger": "HfHubHTTPError 401",
        "read as nobody": "done",
        "closed as nobody": "RepositoryNotFoundError 401",
        "closed as reader": "done",
        "closed file as nobody": "RepositoryNotFoundError 401",
        "gated as nobody": "GatedRepoError 401",
        "gated as reader": "GatedRepoError 403",
        "no repository": "RepositoryNotFoundError 404",
        "no revision": "RevisionNotFoundError 404",
        "no file": "RemoteEntryNotFoundError 404",
        "no folder": "RemoteEntryNotFoundError 404",
        "nothing to delete": "RemoteEntryNotFoundError 404",
        "repository taken": "HfHubHTTPError 409",
        "tag taken": "HfHubHTTPError 409",
        "head has moved": "HfHubHTTPError 412",
        "delete main": "HfHubHTTPError 403",
        "bad card": "ValueError",
        "deleted": "RepositoryNotFoundError 404",
    }


PUSH = 'answer = outcome(api.upload_folder, repo_id="org/tiny", folder_path="folder")'
PULL = """
path = Path("folder/model.safetensors")
def pull():
    assert Path(hf_hub_download("org/tiny", path.name)).read_bytes() == path.read_bytes()
answer = outcome(pull)
"""


@pytest.mark.parametrize(
    ("pattern", "what", "seen", "is_published"),
    [
        ("preupload", 401, "HfHubHTTPError 401", False),
        ("preupload", 404, "RepositoryNotFoundError 404", False),
        ("preupload", 429, "done", True),  # the client waits as told, and tries again
        ("PUT /storage/", "drop", "done", True),
        ("PUT /storage/", 503, "done", True),
        ("/verify", "lost", "done", True),
        ("/commit/", 403, "HfHubHTTPError 403", False),
        ("/commit/", 409, "HfHubHTTPError 409", False),
        ("/commit/", 412, "HfHubHTTPError 412", False),
        ("/commit/", 503, "HfHubHTTPError 503", False),
        ("/commit/", "drop", "ReadError", False),
        ("/commit/", "lost", "ReadError", True),  # published, though the client believes it is not
        ("/commit/", "slow", "done", True),
    ],
)
def test_what_a_fault_does_to_a_push(pattern, what, seen, is_published, hub, run, folder):
    hub.store.create("models", "org/tiny", author="tester")
    hub.fault(pattern, what)
    assert run(PUSH) == seen
    assert ("model.safetensors" in hub.store.find("models", "org/tiny").resolve("main").files) == is_published


@pytest.mark.parametrize(
    ("pattern", "what", "times", "seen"),
    [
        ("HEAD /org/tiny", 401, 1, "HfHubHTTPError 401"),
        ("HEAD /org/tiny", 404, 1, "RepositoryNotFoundError 404"),
        ("HEAD /org/tiny", 503, 1, "done"),
        ("GET /storage/", 429, 1, "done"),
        ("GET /storage/", 503, 1, "HfHubHTTPError 503"),
        ("GET /storage/.*model.safetensors", "drop", 1, "ReadError"),
        ("GET /storage/.*model.safetensors", "truncate", 2, "done"),
    ],
)
def test_what_a_fault_does_to_a_pull(pattern, what, times, seen, hub, run, folder):
    run('api.create_repo("org/tiny")\n' + PUSH)
    hub.fault(pattern, what, times)
    assert run(PULL) == seen
    assert run(PULL) == "done"  # a fault that has happened is over


def test_an_unknown_fault_is_refused():
    with pytest.raises(ValueError, match="Unknown fault 'explode': give a status or one of drop, truncate, lost, slow"):
        Fault("PUT", "explode")


def test_a_second_push_uploads_only_what_is_missing(hub, run, folder):
    (folder / "other.safetensors").write_bytes(b"other" * 1000)
    hub.store.create("models", "org/tiny", author="tester")
    hub.fault("/commit/", 503)
    assert run(PUSH) == "HfHubHTTPError 503"
    (folder / "late.safetensors").write_bytes(b"late" * 1000)
    assert run(PUSH) == "done"
    files = hub.store.find("models", "org/tiny").resolve("main").files
    large = [files[f"{name}.safetensors"].sha256 for name in ("model", "other", "late")]
    assert sorted(uploads(hub)[:2]) == sorted(large[:2])
    assert uploads(hub)[2:] == large[2:]


def test_a_cut_download_is_resumed_where_it_ended(hub, run, folder):
    size, block = 12_000_000, 10 * 1024**2  # the client keeps whole blocks
    (folder / "model.safetensors").write_bytes(os.urandom(size))
    run('api.create_repo("org/tiny")\n' + PUSH)
    hub.fault("GET /storage/", "truncate", after=11_000_000)
    assert run(PULL) == "done"
    downloads = [
        request for request in hub.requests if request.path.startswith("/storage/") and request.method == "GET"
    ]
    assert [(request.status, request.sent) for request in downloads] == [(200, 11_000_000), (206, size - block)]


def test_long_listings_come_in_pages(hub, run, tmp_path):
    for number in range(60):
        (tmp_path / "many" / str(number)).mkdir(parents=True)
        (tmp_path / "many" / str(number) / "a.txt").write_text(str(number))
    answer = run("""
        api.create_repo("org/many", repo_type="dataset")
        api.upload_folder(repo_id="org/many", folder_path="many", repo_type="dataset")
        tree = api.list_repo_tree("org/many", repo_type="dataset", recursive=True, expand=True)
        answer = [entry.path for entry in tree]
        """)
    assert sorted(answer) == sorted([".gitattributes", *map(str, range(60)), *(f"{n}/a.txt" for n in range(60))])
    assert sum("/tree/" in request.path for request in hub.requests) == 3  # 121 entries, 50 a page


@pytest.mark.parametrize(
    ("wanted", "status", "content"),
    [
        (None, 200, b"0123456789"),
        ("bytes=2-4", 206, b"234"),
        ("bytes=7-", 206, b"789"),
        ("bytes=-3", 206, b"789"),
        ("bytes=8-99", 206, b"89"),
        ("bytes=10-", 416, b""),
    ],
)
def test_ranges_of_bytes(wanted, status, content, hub):
    hub.store.create("models", "org/tiny", author="tester")
    repository = hub.store.find("models", "org/tiny")
    repository.add_file("main", "digits.txt", b"0123456789")
    with closing(connect(hub)) as connection:
        connection.request("GET", "/org/tiny/resolve/main/digits.txt", headers={"Range": wanted} if wanted else {})
        response = connection.getresponse()
        assert (response.status, response.read()) == (status, content)
        assert response.headers["X-Repo-Commit"] == repository.resolve("main").sha


def test_storage_asks_for_a_signed_address(hub, run, folder):
    run('api.create_repo("org/tiny", private=True)\n' + PUSH)
    sha256 = hub.store.find("models", "org/tiny").resolve("main").files["model.safetensors"].sha256
    with closing(connect(hub)) as connection:
        connection.request("GET", f"/storage/models/org/tiny/{sha256}?signature=0")
        assert connection.getresponse().status == 403


def test_a_restart_loses_nothing(tmp_path):
    with serve(tmp_path / "root") as hub:
        hub.store.create("spaces", "org/page", author="tester", private=True, sdk="gradio")
        head = hub.store.find("spaces", "org/page").add_file("main", "app.py", b"1")
    with serve(tmp_path / "root") as hub:
        repository = hub.store.find("spaces", "org/page")
        assert repository.resolve("main") == head
        assert repository.settings["sdk"] == "gradio"
        assert repository.read_object(head.files["app.py"].sha256) == b"1"


def test_closing_hangs_up_and_leaves_no_thread(tmp_path):
    threads = threading.active_count()
    with serve(tmp_path) as hub, closing(connect(hub)) as idle, closing(connect(hub)) as waiting:
        idle.request("GET", "/api/whoami-v2")
        assert idle.getresponse().read()
        hub.fault("whoami", "slow", seconds=600)
        waiting.request("GET", "/api/whoami-v2")
    assert threading.active_count() == threads
    with pytest.raises(ConnectionRefusedError):
        connect(hub).connect()


def test_served_by_hand(tmp_path):
    command = [
        sys.executable,
        "-m",
        "tests.helpers.local_hub",
        "--root",
        str(tmp_path),
        "--faults",
        "whoami",
        "503",
        "1",
    ]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        lines = [server.stdout.readline() for _ in range(5)]
        assert lines[1].startswith("export HF_ENDPOINT=http://127.0.0.1:")
        settings = dict(part.split("=") for part in lines[1].split()[1:])
        assert settings["HF_TOKEN"] == "hf_write"

        def ask(path: str, body: dict | None = None, **options: str):
            request = urllib.request.Request(
                settings["HF_ENDPOINT"] + path, body and json.dumps(body).encode(), **options
            )
            request.add_header("Authorization", "Bearer hf_read")
            try:
                with urllib.request.urlopen(request) as response:
                    return json.load(response)
            except urllib.error.HTTPError as error:
                with error:
                    return error.status

        try:
            assert ask("/api/whoami-v2") == 503
            assert ask("/api/whoami-v2")["auth"]["accessToken"]["role"] == "read"
            ask("/control/faults", {"pattern": "whoami", "what": 429, "times": 9})
            assert ask("/api/whoami-v2") == 429
            ask("/control/faults", method="DELETE")
            assert ask("/api/whoami-v2")["name"] == "tester"
            assert [request["status"] for request in ask("/control/requests")] == [503, 200, 429, 200]
        finally:
            server.send_signal(signal.SIGINT)
        assert "everything is kept" in server.stdout.read()
    assert server.returncode == 0


def test_timm_and_transformers_load_the_same_model_and_a_pretrained_start(run):
    answer = run("""
        import timm, torch
        from PIL import Image
        from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline
        from brain_xai.checkpoint.folder import save_checkpoint
        from brain_xai.preprocess import Preprocessing

        def gap(logits):
            return float((logits - wanted).abs().max())

        torch.manual_seed(0)
        model = timm.create_model("test_resnet", num_classes=3).eval()
        save_checkpoint(
            Path("made"), model, label_names=("glioma", "notumor", "pituitary"), brain_xai={},
            preprocessing=Preprocessing(size=(64, 64), mean=(0.5,) * 3, std=(0.5,) * 3),
        )
        Path("made/README.md").write_text("---\\nlibrary_name: timm\\npipeline_tag: image-classification\\n---\\n")
        api.create_repo("org/tiny")
        api.upload_folder(repo_id="org/tiny", folder_path="made")
        api.create_tag("org/tiny", tag="v1")
        api.delete_file("model.safetensors", "org/tiny")  # so that only the tag can be loaded
        image = Image.new("RGB", (90, 70), (10, 200, 30))
        processor = AutoImageProcessor.from_pretrained("org/tiny", revision="v1")
        pixel_values = processor(image, return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            wanted = model(pixel_values)
            by_timm = timm.create_model("hf-hub:org/tiny@v1", pretrained=True).eval()(pixel_values)
            by_transformers = AutoModelForImageClassification.from_pretrained("org/tiny", revision="v1")(pixel_values)
        scores = {item["label"]: item["score"] for item in pipeline(model="org/tiny", revision="v1")(image)}
        start = timm.create_model("test_resnet").eval()  # published where timm looks for the weights of this model
        timm.models.push_to_hf_hub(start, start.pretrained_cfg["hf_hub_id"], safe_serialization=True)
        tuned = timm.create_model("test_resnet", pretrained=True, num_classes=3).eval()
        with torch.inference_mode():
            between = tuned.forward_features(pixel_values) - start.forward_features(pixel_values)
        answer = {
            "gaps": [gap(by_timm), gap(by_transformers.logits), float(between.abs().max())],
            "shape": list(pixel_values.shape),
            "scores": [scores[label] for label in ("glioma", "notumor", "pituitary")],
            "wanted": wanted.softmax(-1)[0].tolist(),
        }
        """)
    assert max(answer["gaps"]) < 1e-6
    assert answer["shape"] == [1, 3, 64, 64]
    assert answer["scores"] == pytest.approx(answer["wanted"], abs=1e-5)


def test_datasets_loads_pushes_and_streams_pictures(run):
    answer = run("""
        import numpy as np
        from datasets import load_dataset
        from PIL import Image

        for split, offset in (("train", 0), ("test", 50)):
            for label, value in (("glioma", 100), ("notumor", 200)):
                path = Path("pictures", split, label, "scan.png")
                path.parent.mkdir(parents=True)
                Image.fromarray(np.full((8, 8), value + offset, np.uint8)).save(path)
        api.create_repo("org/pictures", repo_type="dataset")
        api.upload_folder(repo_id="org/pictures", repo_type="dataset", folder_path="pictures")
        loaded = load_dataset("org/pictures")
        loaded.push_to_hub("org/parquet", private=True)

        def rows(dataset):
            return [[int(np.asarray(row["image"])[0, 0]), row["label"]] for row in dataset]

        answer = {
            "labels": loaded["train"].features["label"].names,
            "test": rows(loaded["test"]),
            "parquet": rows(load_dataset("org/parquet", split="test")),
            "streamed": sorted(rows(load_dataset("org/pictures", split="train", streaming=True))),
        }
        """)
    assert answer["labels"] == ["glioma", "notumor"]
    assert answer["test"] == answer["parquet"] == [[150, 0], [250, 1]]
    assert answer["streamed"] == [[100, 0], [200, 1]]
