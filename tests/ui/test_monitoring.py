"""What the monitoring page counts, who may see it, and what survives: restarts, damaged files, a Hub that is away."""

import asyncio
import json
import re
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import gradio as gr
import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from brain_xai import load_checkpoint
from brain_xai.ui import texts
from brain_xai.ui.language import _language
from brain_xai.ui.monitoring import monitor as monitoring_module
from brain_xai.ui.monitoring import page as monitoring_page
from brain_xai.ui.monitoring import route as monitoring_route
from brain_xai.ui.monitoring import store as store_module
from brain_xai.ui.monitoring.counts import added, bucket_of, from_lines, quantile, to_lines
from brain_xai.ui.monitoring.hub import HubCopy
from brain_xai.ui.monitoring.monitor import Monitor, count_answer, count_calls
from brain_xai.ui.monitoring.settings import Settings
from brain_xai.ui.monitoring.store import Store
from tests.helpers.at_hub import use
from tests.helpers.local_hub.__main__ import serve
from tests.helpers.served import served, wait_until

TOKEN = "a token that only a maintainer knows"
DATASET = "org/counters"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def total(store: Store) -> Counter:
    """Return the counters of all hours together."""
    return sum(store.hours().values(), Counter())


# Counting


def test_a_quantile_is_wrong_by_nine_percent_at_most():
    times = [0.0013 * 1.007**n for n in range(1500)]  # 1.3 ms to 45 s
    buckets = Counter(map(bucket_of, times))
    for share in (0.1, 0.5, 0.95, 1):
        exact = times[round(share * len(times)) - 1]
        assert quantile(buckets, share) == pytest.approx(exact, rel=2 ** (1 / 8) - 1)
    assert quantile({}, 0.5) is None
    assert quantile(Counter([bucket_of(0)]), 0.5) == pytest.approx(0.001)
    assert quantile(Counter([bucket_of(1e9)]), 0.5) < 1100  # what takes for ever is in the last bucket


def test_histograms_of_several_processes_are_the_histogram_of_all():
    one = {"2026-01-01T00": Counter({("took", "/predict", "3"): 2})}
    other = {"2026-01-01T00": Counter({("took", "/predict", "3"): 1, ("took", "/predict", "9"): 1})}
    assert added(one, other) == {"2026-01-01T00": Counter({("took", "/predict", "3"): 3, ("took", "/predict", "9"): 1})}
    assert from_lines(to_lines(one) + to_lines(other)) == added(one, other)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "[]",
        "null",
        '{"hour": "2026-01-01T00"}',
        '{"hour": "2026-13-01T00", "counts": [["calls", "/x", 1]]}',
        '{"hour": 7, "counts": [["calls", "/x", 1]]}',
        "[" * 100_000,
    ],
)
def test_a_damaged_line_costs_only_itself(line):
    sound = '{"hour": "2026-01-01T00", "counts": [["calls", "/predict", 3]]}'
    assert from_lines(f"{line}\n{sound}\n{sound[:-9]}") == {"2026-01-01T00": Counter({("calls", "/predict"): 3})}


@pytest.mark.parametrize(
    "count",
    [
        ["calls", "/x", -1],
        ["calls", "/x", True],
        ["calls", "/x", "1"],
        ["calls", "/x", float("inf")],
        ["calls", 1],
        ["calls", "/x" * 200, 1],
        ["calls", "/x", "/y", 1],
        ["visitors", "Jane", 1],
        ["took", "/x", "9999", 1],
        ["took", "/x", "fast", 1],
        [[], "/x", 1],
        [1],
    ],
)
def test_what_is_no_counter_is_left_out(count):
    line = json.dumps({"hour": "2026-01-01T00", "counts": [count]})
    assert not from_lines(line).get("2026-01-01T00")


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "counters")


async def run(function, store: Store, steps: int = 1) -> None:
    """Call the only function of a page as Gradio's queue does, for so many steps."""
    with gr.Blocks(analytics_enabled=False) as page:
        gr.Button().click(function, None, gr.Textbox(), api_name="work")
    count_calls(page, store)
    iterator = None
    for _ in range(steps):
        output = await page.process_api(block_fn=page.fns[0], inputs=[], iterator=iterator)
        iterator = output["iterator"]


def test_every_way_to_end_is_counted(store):
    def refuse():
        raise gr.Error("no", print_exception=False)

    def fail():
        raise ZeroDivisionError

    asyncio.run(run(lambda: "done", store))
    for function, error in ((refuse, gr.Error), (fail, ZeroDivisionError)):
        with pytest.raises(error):
            asyncio.run(run(function, store))
    counts = total(store)
    assert counts["calls", "/work"] == 3
    assert (counts["refusals", "/work"], counts["errors", "/work"]) == (1, 1)
    assert sum(value for key, value in counts.items() if key[0] == "took") == 1


def test_an_answer_in_steps_is_one_call_and_one_that_nobody_waits_for_has_no_time(store):
    def steps():
        yield "one"
        yield "two"

    asyncio.run(run(steps, store, steps=3))
    assert sum(value for key, value in total(store).items() if key[0] == "took") == 1
    asyncio.run(run(steps, store, steps=1))  # then the visitor leaves
    assert total(store)["calls", "/work"] == 2
    assert sum(value for key, value in total(store).items() if key[0] == "took") == 1


def test_nothing_is_counted_when_nobody_asked(tiny, scan, store):
    count_answer(load_checkpoint(tiny).predict(scan))
    assert store.hours() == {}


# The app


@pytest.fixture(scope="module")
def monitored(tiny, tmp_path_factory):
    """A page that is monitored: itself, its address, and the folder of its counters."""
    folder = tmp_path_factory.mktemp("counters")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRAIN_XAI_MONITORING_TOKEN", TOKEN)
        patch.setenv("BRAIN_XAI_MONITORING_DIR", str(folder))
        with served(tiny) as (page, address):
            yield page, address, folder


def numbers(address: str) -> dict[str, list[str]]:
    """Return the cells of the tables of the monitoring page by their first ones."""
    answer = httpx.get(f"{address}monitoring", headers=BEARER)
    assert answer.status_code == 200
    rows = re.findall(r"<tr><td>(.*?)</tr>", answer.text)
    cells = [[re.sub("<.*?>", "", cell).strip() for cell in re.split("</td>", row)[:-1]] for row in rows]
    return {row[0]: row[1:] for row in cells}


def test_calls_refusals_answers_and_warnings_are_on_the_page(monitored, tiny, scan, tmp_path):
    _, address, _ = monitored
    (tmp_path / "bad.png").write_bytes(b"")
    client = Client(address, verbose=False, download_files=tmp_path, analytics_enabled=False)
    for _ in range(3):
        prediction = client.predict(image=handle_file(scan), api_name="/predict")
    client.predict(image=handle_file(scan), api_name="/explain")
    table, _file = client.predict(files=[handle_file(scan), handle_file(scan)], api_name="/batch")
    with pytest.raises(AppError):
        client.predict(image=handle_file(tmp_path / "bad.png"), api_name="/predict")
    assert httpx.get(f"{address}gradio_api/file=/etc/passwd").status_code == 403
    shown = numbers(address)
    assert shown["/predict"][:4] == ["4", "1", "0", "0"]
    assert shown["/explain"][:4] == ["1", "0", "0", "0"]
    assert shown["/batch"][0] == "1"
    assert all(time.endswith("s") for time in shown["/predict"][4:])
    name, revision = Path(tiny).name, prediction["checkpoint"]["revision"][:8]
    mean = prediction["probabilities"][prediction["label"]]
    assert shown[prediction["label"]] == ["6", "100%", f"{mean:.2f}"]
    assert f"<h3>{name} ({revision})</h3>" in httpx.get(f"{address}monitoring", headers=BEARER).text
    for warning in prediction["warnings"]:
        assert shown[warning["code"]][0] == "6"
    assert not [row for row in table["rows"] if row["error"]]
    assert shown["403"] == ["1"]


def test_every_function_is_counted_under_a_name_of_its_own(monitored):
    """Nothing that the page calls has a name that says nothing."""
    names = {function.name for function in monitored[0].fns.values() if function.fn}
    assert {"on_upload", "on_case", "on_question", "on_choice", "on_cancel", "on_load", "predict"} <= names
    assert not {"<lambda>", "asked", "spoken", "endpoint", "fn"} & names


def test_the_handlers_of_the_page_are_counted(monitored, scan, tmp_path):
    """As the browser calls them: the visitor's image is an answer, a bad file is refused."""
    page, address, _ = monitored
    before = numbers(address)
    assert "page: on_upload" not in before
    (tmp_path / "bad.png").write_bytes(b"no image")
    upload = next(index for index, function in page.fns.items() if function.name == "on_upload")
    for file in (scan, tmp_path / "bad.png"):
        [path] = httpx.post(f"{address}gradio_api/upload", files={"files": file.read_bytes()}).json()
        image = {"path": path, "meta": {"_type": "gradio.FileData"}}
        data = [image, *(None if block.get_block_name() == "state" else getattr(block, "value", None) for block in
                         page.fns[upload].inputs[1:])]  # fmt: skip
        session = f"session{file.name}"
        body = {"data": data, "fn_index": upload, "session_hash": session}
        httpx.post(f"{address}gradio_api/queue/join", json=body).raise_for_status()
        events = httpx.get(f"{address}gradio_api/queue/data?session_hash={session}", timeout=120).text
        assert '"success":true' in events
    assert numbers(address)["page: on_upload"][:4] == ["2", "1", "0", "0"]


# Who may see it


def test_without_a_token_there_is_no_page_and_no_counter(tiny, monkeypatch, tmp_path):
    monkeypatch.delenv("BRAIN_XAI_MONITORING_TOKEN", raising=False)
    monkeypatch.setenv("BRAIN_XAI_MONITORING_DIR", str(tmp_path / "counters"))
    with served(tiny) as (_, address):
        for path in ("monitoring", "monitoring/", "monitoring/summary", "monitoring/login", "monitoring/x/dashboard"):
            assert httpx.get(f"{address}{path}").status_code == 404, path
        assert httpx.get(f"{address}monitoring", headers=BEARER).status_code == 404
        assert httpx.post(f"{address}monitoring/login", data={"token": ""}).status_code == 404
    assert not (tmp_path / "counters").exists()
    assert texts.COUNTED not in texts.privacy()


def test_the_token_opens_the_page_by_header_and_by_form(monitored, monkeypatch, capfd):
    monkeypatch.setattr(monitoring_route, "REFUSAL_SECONDS", 0.01)
    _, address, _ = monitored
    with httpx.Client() as browser:
        asked = browser.get(f"{address}monitoring")
        assert (asked.status_code, "requests" in asked.text) == (401, False)
        for wrong in ("", "x", TOKEN[:-1], f"{TOKEN}x", "\x00é"):
            refused = browser.post(f"{address}monitoring/login", data={"token": wrong})
            assert (refused.status_code, "set-cookie" in refused.headers) == (401, False)
        entered = browser.post(f"{address}monitoring/login", data={"token": TOKEN})
        assert entered.status_code == 303
        cookie = entered.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        shown = browser.get(f"{address}monitoring")
        assert (shown.status_code, "Turned away" in shown.text) == (200, True)
        assert shown.headers["cache-control"] == "no-store"
        assert "default-src 'none'" in shown.headers["content-security-policy"]
        browser.post(f"{address}monitoring/logout")
        assert browser.get(f"{address}monitoring").status_code == 401
    for wrong in ("Bearer x", "Bearer", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer \xe9"):
        headers = {"Authorization": wrong.encode("latin1")}
        assert httpx.get(f"{address}monitoring", headers=headers).status_code == 401
    for answer in (asked, entered, shown):
        assert TOKEN not in f"{answer.text}{answer.headers}{answer.url}"
    assert httpx.get(f"{address}monitoring", params={"token": TOKEN}).status_code == 401  # not in an address
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_a_long_form_is_not_read(monitored):
    assert httpx.post(f"{monitored[1]}monitoring/login", content=b"token=" + bytes(10_000)).status_code == 413


def test_behind_https_the_cookie_is_never_sent_in_the_clear(monitored):
    forwarded = {"X-Forwarded-Proto": "https"}
    entered = httpx.post(f"{monitored[1]}monitoring/login", data={"token": TOKEN}, headers=forwarded)
    assert "Secure" in entered.headers["set-cookie"]


def test_a_token_that_could_be_guessed_stops_the_app(monkeypatch):
    monkeypatch.setenv("BRAIN_XAI_MONITORING_TOKEN", "1234")
    with pytest.raises(SystemExit, match="fewer than 16 characters"):
        Settings.from_environment()
    assert TOKEN not in repr(Settings(TOKEN))


def test_visitors_are_told_in_their_language(monkeypatch):
    monkeypatch.setenv("BRAIN_XAI_MONITORING_TOKEN", TOKEN)
    assert "counts by the hour" in texts.privacy()
    token = _language.set("de")
    try:
        assert "Dieser Server zählt je Stunde" in texts.privacy()
    finally:
        _language.reset(token)


def test_the_page_loads_nothing_and_takes_no_markup_from_names(store):
    for name in ("<script>", "'\"><img src=x>"):
        store.add("calls", f"page: {name}")
        store.add("labels", name, name)
        store.add("probability", name, name, amount=0.5)
        store.add("warnings", name)
        store.add("http", name)
    shown = monitoring_page.view(store.hours(), "days", datetime.now(UTC))
    html = monitoring_page.page(shown, "days", min(store.hours()), "<b>")
    assert not re.search(r"<script|<img|<link|<b>|@import|url\(|https?://", html)
    assert html.count("&lt;script&gt;") >= 4


def test_both_ranges_hold_what_falls_into_them(tmp_path):
    now = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
    hours = ["2026-03-01T12", "2026-02-27T13", "2026-02-27T12", "2025-12-02T00", "2025-12-01T23"]
    waiting = iter(hours)
    store = Store(tmp_path, hour=lambda: next(waiting))
    for _ in hours:
        store.add("calls", "/predict")
    by_hour = monitoring_page.view(store.hours(), "hours", now)
    by_day = monitoring_page.view(store.hours(), "days", now)
    assert by_hour.total["calls", "/predict"] == 2  # the last 48 hours
    assert by_day.total["calls", "/predict"] == 4  # the last 90 days
    assert dict(by_day.slots)["2026-02-27"]["calls", "/predict"] == 2


# What survives


def test_a_restart_goes_on_where_the_last_run_ended(tiny, monkeypatch, tmp_path, scan):
    monkeypatch.setenv("BRAIN_XAI_MONITORING_TOKEN", TOKEN)
    monkeypatch.setenv("BRAIN_XAI_MONITORING_DIR", str(tmp_path / "counters"))
    for run_number in (1, 2):
        with served(tiny) as (_, address):
            Client(address, verbose=False, analytics_enabled=False).predict(api_name="/checkpoints")
            assert numbers(address)["/checkpoints"][0] == str(run_number)
    assert len(list((tmp_path / "counters").iterdir())) == 2


def test_processes_that_share_a_folder_add_up(tmp_path):
    one, other = Store(tmp_path), Store(tmp_path)
    one.add("calls", "/predict")
    other.add("calls", "/predict", amount=2)
    one.save()
    other.save()
    assert total(one) == total(other) == total(Store(tmp_path)) == Counter({("calls", "/predict"): 3})
    other.add("calls", "/predict")
    other.save()
    assert total(one)["calls", "/predict"] == 4


def test_damaged_files_cost_only_themselves(tmp_path):
    sound = Store(tmp_path)
    sound.add("calls", "/predict")
    sound.save()
    month = f"{datetime.now(UTC):%Y-%m}"
    (tmp_path / f"counters-{month}-a.jsonl").write_bytes(b"\xff\xfe\x00" * 1000)
    (tmp_path / f"counters-{month}-b.jsonl").write_bytes(b'{"hour": "2026-01-01T00", "counts": [["calls", "/p')
    (tmp_path / f"counters-{month}-c.jsonl").mkdir()
    (tmp_path / f"counters-{month}-d.jsonl").write_bytes(b" " * (3 * store_module.MAX_FILE_BYTES))
    (tmp_path / f"counters-{month}-e.jsonl").symlink_to(tmp_path / "nowhere")
    assert total(Store(tmp_path)) == Counter({("calls", "/predict"): 1})


def test_a_folder_that_cannot_be_written_is_said_once_and_the_counters_go_on(tmp_path, capfd):
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file")
    for _ in range(2):
        store.add("calls", "/predict")
        store.save()
    assert total(store)["calls", "/predict"] == 2
    assert capfd.readouterr().err.count("could not be saved") == 1
    (tmp_path / "file").unlink()
    store.save()
    assert total(Store(tmp_path / "file"))["calls", "/predict"] == 2


def test_the_folder_is_bounded_and_the_newest_hours_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "MAX_FILE_BYTES", 2000)
    monkeypatch.setattr(store_module, "MAX_FOLDER_BYTES", 10_000)
    (tmp_path / "counters-2019-01-01T000000-0.jsonl").write_text("")
    hours = [f"2026-01-{day:02d}T{hour:02d}" for day in range(1, 29) for hour in range(24)]
    now = iter(hours)
    store = Store(tmp_path, hour=lambda: next(now))
    for _ in hours:
        store.add("calls", "/predict")
        store.save()
    files = sorted(tmp_path.iterdir())
    assert sum(file.stat().st_size for file in files) < 10_000 + 2 * 2000
    assert len(files) > 3
    assert not (tmp_path / "counters-2019-01-01T000000-0.jsonl").exists()
    kept = store.hours()
    assert hours[-1] in kept
    assert hours[0] not in kept
    assert kept.keys() == set(hours[-len(kept) :])


# The Hub


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with serve(tmp_path / "root") as hub:
        use(hub.endpoint, tmp_path / "cache", monkeypatch)
        yield hub


def sent(hub) -> Counter:
    """Return what the data set on the Hub holds, all files added up."""
    repository = hub.store.find("datasets", DATASET)
    files = repository.resolve("main").files if repository else {}
    content = [repository.read_object(file.sha256).decode() for name, file in files.items() if name.endswith("jsonl")]
    return sum(added(*map(from_lines, content)).values(), Counter())


def test_counters_go_to_a_private_data_set_and_come_back_on_another_disk(hub, tmp_path):
    first = Store(tmp_path / "first")
    copy = HubCopy(first, DATASET, minutes=0.005)
    copy.connect()
    assert hub.store.find("datasets", DATASET).settings["private"]
    for count in (1, 2):
        first.add("calls", "/predict")
        first.save()
        assert wait_until(lambda count=count: sent(hub)["calls", "/predict"] == count)
    first.add("calls", "/predict")
    first.save()
    copy.close()  # sends what is left
    assert sent(hub)["calls", "/predict"] == 3
    assert copy.is_connected

    second = Store(tmp_path / "second")  # a Space loses its disk with each restart
    other = HubCopy(second, DATASET)
    other.connect()
    second.add("calls", "/predict")
    second.save()
    assert total(second)["calls", "/predict"] == 4
    other.close()
    assert sent(hub)["calls", "/predict"] == 4
    third = Store(tmp_path / "second")  # the same disk again: nothing is counted twice
    HubCopy(third, DATASET, minutes=1000).connect()
    assert total(third)["calls", "/predict"] == 4


def test_a_commit_that_fails_is_made_up_for(hub, tmp_path, capfd):
    store = Store(tmp_path / "counters")
    copy = HubCopy(store, DATASET, minutes=0.005)
    copy.connect()
    hub.fault("/commit/", 403, times=3)
    store.add("calls", "/predict")
    store.save()
    assert wait_until(lambda: sent(hub)["calls", "/predict"] == 1)
    copy.close()
    captured = capfd.readouterr()
    assert "hf_write" not in captured.out + captured.err


def test_a_hub_that_is_away_costs_nothing_but_the_copy(hub, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("BRAIN_XAI_MONITORING_DIR", str(tmp_path / "counters"))
    monkeypatch.setattr(monitoring_module, "RECONNECT_SECONDS", 0.01)
    hub.fault("", 403, times=4)
    monitor = Monitor(Settings(TOKEN, DATASET))

    async def serving() -> None:
        async with monitor.saving():
            while not monitor.hub.is_connected:
                monitor.store.add("calls", "/predict")
                await asyncio.sleep(0.01)

    assert "cannot be reached" in monitor.where()
    asyncio.run(serving())
    monitor.close()
    assert sent(hub) == total(Store(tmp_path / "counters")) == total(monitor.store)
    assert total(monitor.store)["calls", "/predict"] > 0
    said = capfd.readouterr().err
    assert re.search(r"cannot be reached \(\w+Error\)", said)
    assert "hf_write" not in said
