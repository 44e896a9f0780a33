"""The local Hub, as huggingface_hub sees it: what other tests prove with it depends on its answers and its faults."""

import http.client
import os
import signal
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from tests.helpers.at_hub import use
from tests.helpers.local_hub.__main__ import serve
from tests.helpers.local_hub.server import Fault

# The Hub's client itself still says `data=` where httpx wants `content=`.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

ROOT = Path(__file__).parents[2]
REPO = "org/tiny"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with serve(tmp_path / "root") as hub:
        use(hub.endpoint, tmp_path / "cache", monkeypatch)
        yield hub


@pytest.fixture
def folder(tmp_path):
    """A folder to push: a large file, a card and a small file one level down."""
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 1000)
    (folder / "README.md").write_text("---\nlicense: mit\n---\nA card.\n")
    (folder / "sub" / "notes.txt").write_text("first")
    return folder


def uploads(hub) -> list[str]:
    """Return the SHA-256 of the large files that arrived, in order."""
    arrived = [request for request in hub.requests if request.method == "PUT" and request.status == 200]
    return [request.path.split("?")[0].split("/")[-1] for request in arrived]


def test_a_folder_is_pushed_and_pulled_at_every_revision(hub, folder):
    api = HfApi()
    assert api.create_repo(REPO, private=True) == f"{hub.endpoint}/{REPO}"
    api.create_repo(REPO, exist_ok=True)
    first = api.upload_folder(repo_id=REPO, folder_path=folder).oid
    assert api.upload_folder(repo_id=REPO, folder_path=folder).oid == first  # nothing has changed: no commit
    api.create_tag(REPO, tag="v1")
    api.create_branch(REPO, branch="trial", revision="v1")
    api.upload_file(path_or_fileobj=b"second", path_in_repo="sub/notes.txt", repo_id=REPO)
    second = api.delete_file("README.md", REPO).oid

    refs = api.list_repo_refs(REPO)
    assert [ref.target_commit for ref in refs.tags] == [first]
    assert {ref.name: ref.target_commit for ref in refs.branches} == {"main": second, "trial": first}
    notes = {name: Path(snapshot_download(REPO, revision=name), "sub", "notes.txt") for name in ("main", "v1", first)}
    assert {name: path.read_text() for name, path in notes.items()} == {"main": "second", "v1": "first", first: "first"}
    weights = folder / "model.safetensors"
    assert Path(hf_hub_download(REPO, weights.name)).read_bytes() == weights.read_bytes()

    at_tag, at_head = (api.model_info(REPO, revision=name, files_metadata=True) for name in ("v1", "main"))
    assert (at_tag.sha, at_tag.private) == (first, True)
    sizes = {file.rfilename: file.size for file in at_tag.siblings}
    small = {name: (folder / name).stat().st_size for name in ("README.md", "sub/notes.txt")}
    assert sizes == {".gitattributes": sizes[".gitattributes"], weights.name: 256_000} | small
    assert [file.lfs.sha256 for file in at_tag.siblings if file.lfs] == uploads(hub)
    assert {file.rfilename for file in at_head.siblings} == sizes.keys() - {"README.md"}
    titles = [commit.title for commit in api.list_repo_commits(REPO)]
    assert (len(titles), titles[-1]) == (4, "initial commit")
    api.delete_branch(REPO, branch="trial")
    assert [ref.name for ref in api.list_repo_refs(REPO).branches] == ["main"]


def outcome(action, *arguments, **settings) -> str:
    try:
        action(*arguments, **settings)
    except HfHubHTTPError as error:
        return f"{type(error).__name__} {error.response.status_code}"
    except Exception as error:
        return type(error).__name__
    return "done"


def test_refusals_are_those_of_the_real_hub(hub):
    api, nobody, reader, stranger = (HfApi(token=token) for token in (None, False, "hf_read", "hf_wrong"))
    api.create_repo(REPO)
    old = api.model_info(REPO).sha
    push = {"repo_id": REPO, "path_or_fileobj": b"1", "path_in_repo": "a.txt"}
    api.upload_file(**push)
    api.create_tag(REPO, tag="v1")
    bad_card = push | {"path_in_repo": "README.md", "path_or_fileobj": b"---\nlicense: [mit\n---\n"}
    assert outcome(nobody.upload_file, **push) == "HfHubHTTPError 401"
    assert outcome(reader.upload_file, **push) == "HfHubHTTPError 403"
    assert outcome(reader.create_repo, "org/other") == "HfHubHTTPError 403"
    assert outcome(stranger.model_info, REPO) == "HfHubHTTPError 401"
    assert outcome(api.model_info, "org/missing") == "RepositoryNotFoundError 404"
    assert outcome(hf_hub_download, REPO, "a.txt", revision="v2") == "RevisionNotFoundError 404"
    assert outcome(hf_hub_download, REPO, "b.txt") == "RemoteEntryNotFoundError 404"
    assert outcome(api.create_repo, REPO) == "HfHubHTTPError 409"
    assert outcome(api.create_tag, REPO, tag="v1") == "HfHubHTTPError 409"
    assert outcome(api.upload_file, **push | {"path_or_fileobj": b"2"}, parent_commit=old) == "HfHubHTTPError 412"
    assert outcome(api.upload_file, **bad_card) == "ValueError"


@pytest.mark.parametrize(
    ("where", "what", "seen", "is_published"),
    [
        ("preupload", 404, "RepositoryNotFoundError 404", False),
        ("PUT /storage/", "drop", "done", True),  # the client tries again
        ("/commit/", 412, "HfHubHTTPError 412", False),
        ("/commit/", "drop", "ReadError", False),
        ("/commit/", "lost", "ReadError", True),  # published, though the client believes it is not
    ],
)
def test_what_a_fault_does_to_a_push(where, what, seen, is_published, hub, folder):
    HfApi().create_repo(REPO)
    hub.fault(where, what)
    assert outcome(HfApi().upload_folder, repo_id=REPO, folder_path=folder) == seen
    assert ("model.safetensors" in hub.store.find("models", REPO).resolve("main").files) == is_published


@pytest.mark.parametrize(
    ("where", "what", "times", "seen"),
    [
        ("HEAD /org/tiny", 404, 1, "RepositoryNotFoundError 404"),
        ("GET /storage/", 503, 1, "HfHubHTTPError 503"),
        ("GET /storage/.*model.safetensors", "drop", 1, "ReadError"),
        ("GET /storage/.*model.safetensors", "truncate", 2, "done"),
    ],
)
def test_what_a_fault_does_to_a_download(where, what, times, seen, hub, folder):
    HfApi().create_repo(REPO)
    HfApi().upload_folder(repo_id=REPO, folder_path=folder)
    hub.fault(where, what, times)
    assert outcome(hf_hub_download, REPO, "model.safetensors") == seen
    assert outcome(hf_hub_download, REPO, "model.safetensors") == "done"  # a fault that has happened is over


def test_an_unknown_fault_is_refused():
    with pytest.raises(ValueError, match="Unknown fault 'explode': give a status or one of drop, truncate, lost"):
        Fault("PUT", "explode")


def test_a_download_resumes_at_the_byte_the_client_asks_for(hub, folder):
    HfApi().create_repo(REPO)
    HfApi().upload_folder(repo_id=REPO, folder_path=folder)
    with closing(connect(hub)) as connection:
        path = f"/storage/models/{REPO}/{uploads(hub)[0]}"
        connection.request("GET", path, headers={"Range": "bytes=200000-"})
        response = connection.getresponse()
        assert (response.status, response.headers["Content-Range"]) == (206, "bytes 200000-255999/256000")
        assert response.read() == (folder / "model.safetensors").read_bytes()[200_000:]


def connect(hub) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(hub.endpoint.removeprefix("http://"))


def test_closing_hangs_up_and_leaves_no_thread(tmp_path):
    threads = threading.active_count()
    with serve(tmp_path) as hub, closing(connect(hub)) as idle:
        idle.request("GET", "/api/whoami-v2")
        assert idle.getresponse().read()
    assert threading.active_count() == threads
    with pytest.raises(ConnectionRefusedError):
        connect(hub).connect()


def test_served_by_hand_it_keeps_everything(tmp_path):
    with serve(tmp_path) as hub:
        hub.store.create("models", REPO, private=True)
        sha = hub.store.find("models", REPO).resolve("main").sha
    command = [sys.executable, "-m", "tests.helpers.local_hub", "--root", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            lines = [server.stdout.readline() for _ in range(3)]
            settings = dict(part.split("=") for part in lines[1].removeprefix("export ").split())
            code = (
                f"from huggingface_hub import HfApi; info = HfApi().model_info('{REPO}'); print(info.sha, info.private)"
            )
            client = [sys.executable, "-c", code]
            seen = subprocess.run(client, env=os.environ | settings, capture_output=True, text=True, check=False)
            assert seen.stdout.split() == [sha, "True"], seen.stderr
        finally:
            server.send_signal(signal.SIGINT)
        assert "everything is kept" in server.stdout.read()
    assert server.returncode == 0
