"""A visitor's files lose their names, stay in no cache, and are deleted when the visitor says so or leaves."""

import json
import subprocess
import sys
import uuid
from contextlib import contextmanager
from pathlib import Path

import gradio as gr
import httpx
import pytest

from brain_xai.ui import privacy
from brain_xai.ui.visitors import stored_name
from tests.helpers.scans import make_scan
from tests.helpers.served import wait_until

FILE_DATA = {"_type": "gradio.FileData"}


@pytest.fixture(scope="module")
def api(address) -> str:
    return f"{address}gradio_api/"


class Visitor:
    """A session as the page's JavaScript has one."""

    def __init__(self, page: gr.Blocks, api: str):
        self.page, self.api, self.session = page, api, uuid.uuid4().hex[:11]

    def upload(self, number: int, name: str = "JANE_DOE_1961-04-03.png") -> dict:
        image = make_scan("glioma", number, side=90)
        path = Path(self.page.app.uploaded_file_dir) / f"{uuid.uuid4().hex}.tmp"
        image.save(path, "PNG")
        files = {"files": (name, path.read_bytes())}
        path.unlink()
        [path] = httpx.post(f"{self.api}upload", files=files).json()
        return {"path": path, "orig_name": name, "meta": FILE_DATA}

    def call(self, function: str, *data: object) -> list:
        """Call one of the page's functions through the queue and return what it answers."""
        index = next(index for index, block_function in self.page.fns.items() if block_function.name == function)
        body = {"data": data, "fn_index": index, "session_hash": self.session}
        httpx.post(f"{self.api}queue/join", json=body).raise_for_status()
        with httpx.stream("GET", f"{self.api}queue/data?session_hash={self.session}", timeout=120) as events:
            for line in events.iter_lines():
                event = json.loads(line.removeprefix("data: ")) if line else {}
                if event.get("msg") == "process_completed":
                    assert event["success"], event
                    return event["output"]["data"]
        raise AssertionError("no answer")

    def explain(self, image: dict) -> list[Path]:
        """Return the files of a map."""
        overlay, attribution, _ = self.call("explain", image, "default", "grad_cam", "predicted")
        return [Path(overlay["path"]), Path(attribution["path"])]

    @contextmanager
    def reading(self):
        """The page is open: its heartbeat is what tells Gradio that the visitor is there."""
        with httpx.stream("GET", f"{self.api}heartbeat/{self.session}", timeout=120) as heartbeat:
            lines = heartbeat.iter_lines()  # while it is kept, the connection is
            next(lines)
            yield


@pytest.fixture
def visitor(page, api) -> Visitor:
    return Visitor(page, api)


@pytest.fixture
def other(page, api) -> Visitor:
    return Visitor(page, api)


def examples(page: gr.Blocks) -> list[Path]:
    return [Path(file) for block in page.blocks.values() for file in block.keep_in_cache]


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("JANE_DOE_1961-04-03.png", "scan.png"),
        ("Jane.Doe.JPEG", "scan.jpeg"),
        ("jane.doe", "scan"),
        ("brain.nii.gz", "scan.nii.gz"),
        ("IM0001", "scan"),
        ("../../jane.dcm", "scan.dcm"),
        ("", "scan"),
    ],
)
def test_an_upload_keeps_of_its_name_only_the_format(name, stored):
    assert stored_name(name) == stored


def test_no_file_and_no_header_holds_the_name_of_an_upload(visitor, page, api):
    image = visitor.upload(1)
    answered = visitor.explain(image)
    assert Path(image["path"]).name == "scan.png"
    for path in (image["path"], *answered):
        answer = httpx.get(f"{api}file={path}")
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-store"
        assert "jane" not in str(answer.headers).lower()
    folder = Path(page.app.uploaded_file_dir)
    assert not [path for path in folder.parent.rglob("*") if "jane" in path.name.lower()]
    assert httpx.get(f"{api}deep_link?session_hash={visitor.session}").status_code == 404
    assert httpx.post(f"{api}process_recording", files={"video": b"JANE"}).status_code == 404
    assert not [path for path in folder.rglob("*") if path.is_file() and b"JANE" in path.read_bytes()]


def test_no_answer_is_kept_in_a_cache(visitor, api):
    image = visitor.upload(2)
    event = httpx.post(f"{api}call/predict", json={"data": [image, "default"]})
    answers = [event, httpx.get(f"{api}call/predict/{event.json()['event_id']}"), httpx.get(f"{api}info")]
    assert "probabilities" in answers[1].text
    assert [answer.headers["cache-control"] for answer in answers] == ["no-store"] * 3


def test_leaving_the_page_deletes_everything_of_one_visitor(visitor, other):
    """Files are named after their content, so two visitors with the same image share them."""
    same, own = visitor.upload(3), visitor.upload(4)
    with other.reading():
        with visitor.reading():
            others = [Path(same["path"]), *other.explain(other.upload(3))]
            shared = visitor.explain(same)
            alone = [Path(own["path"]), *visitor.explain(own)]
            assert shared == others[1:]
            assert all(path.exists() for path in (*others, *alone))
            assert visitor.session in visitor.page.state_holder
        assert wait_until(lambda: not any(path.exists() for path in alone))
        assert visitor.session not in visitor.page.state_holder
        assert all(path.exists() for path in others)
    assert wait_until(lambda: not any(path.parent.exists() for path in others))


def test_another_image_or_none_deletes_the_previous_one(visitor):
    first, second = visitor.upload(5), visitor.upload(6)
    before = [Path(first["path"]), *visitor.explain(first)]
    after = [Path(second["path"]), *visitor.explain(second)]
    visitor.call("forget_previous", second)
    assert not any(path.exists() for path in before)
    assert all(path.exists() for path in after)
    visitor.call("forget_previous", None)
    assert not any(path.exists() for path in after)


def test_a_case_deletes_what_the_visitor_had_before(visitor, page):
    image = visitor.upload(8)
    before = [Path(image["path"]), *visitor.explain(image)]
    visitor.call("forget_for_case")
    assert not any(path.exists() for path in before)
    assert all(path.exists() for path in examples(page))


def test_what_is_computed_after_the_visitor_has_gone_is_deleted_too(visitor, page):
    image, example = visitor.upload(7), {"path": str(examples(page)[0]), "meta": FILE_DATA}
    visitor.call("predict", image, "default")
    session = page.state_holder.session_data[visitor.session]
    visitor.call("forget")
    assert not Path(image["path"]).exists()
    page.state_holder.session_data[visitor.session] = session  # a map that was still being computed
    assert not any(path.exists() for path in visitor.explain(example))


def test_only_the_visitors_own_files_are_deleted(visitor, page, tmp_path):
    example = examples(page)[0]
    visitor.call("predict", {"path": str(example), "meta": FILE_DATA}, "default")
    (tmp_path / "mine.png").write_bytes(example.read_bytes())
    folder = Path(page.app.uploaded_file_dir)
    for path in (tmp_path / "mine.png", folder / ".." / privacy.LOCK_NAME):
        with pytest.raises(AssertionError, match="This call cannot be"):
            visitor.call("predict", {"path": str(path), "meta": FILE_DATA}, "default")
    visitor.call("forget")
    assert all(path.exists() for path in examples(page))
    assert (tmp_path / "mine.png").exists()
    assert (folder.parent / privacy.LOCK_NAME).exists()


CODE = """
import pathlib, runpy, sys, os
runpy.run_path({privacy!r})["isolate_upload_folder"]()
pathlib.Path(os.environ["GRADIO_TEMP_DIR"], "scan.png").write_bytes(b"a scan")
print(os.environ["GRADIO_TEMP_DIR"], flush=True)
sys.stdin.read()
"""


@contextmanager
def upload_folder(temporary: Path):
    """Another process that has uploads; yields it with its folder, and kills it as a power cut does."""
    code = CODE.format(privacy=privacy.__file__)
    arguments = {"env": {"TMPDIR": str(temporary)}, "stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **arguments) as process:
        try:
            yield process, Path(process.stdout.readline().strip())
        finally:
            process.kill()


def test_the_uploads_of_a_killed_app_are_deleted_at_once(tmp_path):
    with upload_folder(tmp_path) as (_, killed):
        assert (killed / "scan.png").exists()
        assert killed.parent.stat().st_mode & 0o777 == 0o700
    assert wait_until(lambda: not killed.parent.exists())


def test_what_a_power_cut_left_behind_is_deleted_by_the_next_app(tmp_path):
    (tmp_path / "brain-xai-of-somebody-else").mkdir()
    killed = tmp_path / "brain-xai-killed" / "files"
    killed.mkdir(parents=True)
    (killed / "scan.png").write_bytes(b"a scan")
    (killed.parent / privacy.LOCK_NAME).write_text("1\n")  # nobody holds its lock
    with upload_folder(tmp_path) as (_, running):
        assert not killed.parent.exists()
        with upload_folder(tmp_path) as (process, last):
            assert (running / "scan.png").exists()
            process.stdin.close()  # ends as it should
            process.wait(120)
            assert not last.parent.exists()
    assert (tmp_path / "brain-xai-of-somebody-else").exists()
