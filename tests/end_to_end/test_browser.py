"""A visitor in a real browser: from the upload to the map, with no internet, beside another visitor."""

import re
from pathlib import Path

import pytest

from brain_xai import METHODS
from brain_xai.preprocess import MAX_FILE_BYTES
from tests.helpers.scans import make_scan
from tests.helpers.served import add_case, job_threads, save_tiny_checkpoint, served, wait_until

# Layout shifts count unless they follow at once on what the visitor did, as in the measure "cumulative layout shift".
WATCH_SHIFTS = """
window.shifts = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifts += entry.value;
}).observe({ type: "layout-shift", buffered: true });
"""
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    quick = save_tiny_checkpoint(folder / "quick", ("glioma", "notumor"))
    add_case(quick, "glioma")
    slow = save_tiny_checkpoint(folder / "slow", ("glioma", "notumor"), side=1024)
    with served(quick, slow) as (_, address):
        yield address


def choose(page, path: Path) -> str:
    """Upload an image and return its map."""
    overlay = page.locator("#overlay img")
    before = overlay.get_attribute("src") if overlay.count() else None
    page.locator("#image input[type=file]").set_input_files(path)
    changed = "before => ![undefined, before].includes(document.querySelector('#overlay img')?.src)"
    page.wait_for_function(changed, arg=before)
    return page.locator("#overlay img").get_attribute("src")


def choose_slow_model(page) -> str:
    """Choose the model for which occlusion takes seconds, and return its map."""
    before = page.locator("#overlay img").get_attribute("src")
    page.locator("#checkpoint").get_by_text("slow").click()
    page.wait_for_function("before => document.querySelector('#overlay img').src !== before", arg=before)
    return page.locator("#overlay img").get_attribute("src")


def choose_method(page, title: str) -> None:
    page.locator("#method input").click()
    page.get_by_role("option", name=title).click()


@pytest.fixture
def scan(tmp_path) -> Path:
    make_scan("glioma", 0, side=120).save(tmp_path / "scan.png")
    return tmp_path / "scan.png"


@pytest.mark.parametrize("width", [1280, 390])
def test_upload_shows_answer_and_map(width, visit, scan):
    page = visit(width)
    choose(page, scan)
    assert page.get_by_text("not a diagnosis").is_visible()
    assert "the model's certainty is" in page.locator("#sentence").inner_text()
    assert "%" in page.locator("#target").inner_text()
    assert "Grad-CAM" in page.locator("#overlay img").get_attribute("alt")
    spoken = page.get_by_role("status").filter(has_text="certainty").inner_text()  # for screen readers
    assert spoken.replace(":", "") in " ".join(page.locator("#sentence").inner_text().splitlines())
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")  # nothing to scroll sideways


def test_a_case_is_one_click_away(visit):
    page = visit()
    page.locator("#cases button").first.click()
    page.locator("#no-guess, #sentence h2").first.wait_for()
    if page.locator("#no-guess").is_visible():
        page.locator("#no-guess").click()
    page.locator("#overlay img").wait_for()


@pytest.mark.parametrize(
    ("width", "height", "parts"),
    [(1280, 720, ("#method", "#opacity", "#outline", "#target label >> nth=1")), (390, 844, ("#method",))],
)
def test_answer_map_and_controls_are_on_the_first_screen(width, height, parts, visit, scan):
    page = visit(width, height)
    choose(page, scan)
    page.locator("#caption p").first.wait_for()
    for part in ("#sentence h2", "#overlay img", *parts):
        box = page.locator(part).bounding_box()
        assert 0 <= box["y"] <= height - box["height"], f"{part}: {box}"


def test_nothing_jumps(visit, scan):
    page = visit(1280, 720, WATCH_SHIFTS)
    page.locator("#cases .verdict:not(:empty)").wait_for()
    page.locator("#cases button").first.click()
    page.locator("#guess label").first.click()
    page.locator("#overlay img").wait_for()
    choose(page, scan)
    page.locator("#compare").click()
    page.locator("#gallery").get_by_text("Saliency", exact=True).wait_for()
    page.locator("#cancel").wait_for(state="hidden")
    assert page.evaluate("window.shifts") < 0.1


def test_the_strip_says_what_the_model_makes_of_a_case_before_it_is_clicked(visit):
    verdict = visit().locator("#cases .verdict:not(:empty)")
    verdict.wait_for()
    assert verdict.inner_text() in ("model right", "model unsure", "model wrong", "refused")


def test_a_bad_file_gets_a_sentence_and_takes_the_answer_away(visit, scan, tmp_path):
    page = visit()
    choose(page, scan)
    (tmp_path / "bad.png").write_bytes(b"")
    page.locator("#image input[type=file]").set_input_files(tmp_path / "bad.png")
    page.get_by_role("alert").wait_for()
    assert "The file is empty." in page.get_by_role("alert").inner_text()
    assert page.locator("#result").count() == 0 or not page.locator("#result").is_visible()


def test_a_file_that_is_too_large_is_not_even_sent(visit, tmp_path):
    page = visit()
    (tmp_path / "huge.png").write_bytes(b"0" * (MAX_FILE_BYTES + 1))
    sent = []
    page.on("request", lambda request: sent.append(request.url) if "upload" in request.url else None)
    page.locator("#image input[type=file]").set_input_files(tmp_path / "huge.png")
    page.get_by_text("too large").wait_for()
    assert not sent


def test_a_tap_covers_the_scan_and_the_classes_answer_at_once(visit, scan):
    page = visit()
    choose(page, scan)
    page.locator("#scan img").click(position={"x": 60, "y": 60})
    page.locator("#covered p").wait_for()
    assert "→" in page.locator("#target").inner_text()
    page.locator("#uncover").click()
    page.locator("#covered p").wait_for(state="hidden")
    assert "→" not in page.locator("#target").inner_text()


def test_a_tap_on_a_class_explains_it(visit, scan):
    page = visit()
    first = choose(page, scan)
    page.locator("#target label").last.click()
    page.wait_for_function("before => document.querySelector('#overlay img').src !== before", arg=first)


def test_occlusion_starts_by_itself_and_can_be_cancelled(visit, scan):
    page = visit()
    choose(page, scan)
    grad_cam = choose_slow_model(page)
    choose_method(page, "Occlusion")
    page.locator("#progress progress").wait_for()
    page.locator("#cancel").click()
    page.locator("#cancel").wait_for(state="hidden")
    page.wait_for_function("before => document.querySelector('#overlay img').src === before", arg=grad_cam)
    assert page.locator("#method input").input_value().startswith("Grad-CAM")
    choose_method(page, "Occlusion")
    page.locator("#overlay img[alt^=Occlusion]").wait_for()
    assert "Occlusion" in page.locator("#caption").inner_text()


def test_leaving_the_page_stops_the_work(visit, scan):
    page = visit()
    choose(page, scan)
    choose_slow_model(page)
    choose_method(page, "Occlusion")
    threads = []
    assert wait_until(lambda: threads.extend(job_threads()) or threads)
    page.close()
    threads[0].join(120)
    assert not threads[0].is_alive()


@pytest.mark.parametrize("width", [1280, 390])
def test_all_methods_side_by_side(width, visit, scan):
    page = visit(width)
    first = choose(page, scan)
    titles = [method.title for key, method in METHODS.items() if key != "attention_relevance"]  # not for a ResNet
    page.locator("#compare").click()
    for title in titles:
        caption = page.locator("#gallery").get_by_text(title, exact=True)
        caption.wait_for()
        assert caption.evaluate("caption => caption.scrollWidth <= caption.clientWidth"), "nothing is cut off"
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    page.locator("#cancel").wait_for(state="hidden")
    page.locator("#gallery button", has_text="Saliency").click()
    page.wait_for_function("before => document.querySelector('#overlay img').src !== before", arg=first)
    assert page.locator("#method input").input_value().startswith("Saliency")
    shares = page.locator("[aria-label*=share i], [title*=share i]")
    assert shares.count() + page.get_by_role("button", name=re.compile("share", re.I)).count() == 0


@pytest.mark.parametrize("width", [1280, 390])
def test_the_map_fills_the_screen_and_there_is_a_way_back(width, visit, scan):
    page = visit(width)
    choose(page, scan)
    button = page.locator("#overlay").get_by_label("Full screen")
    button.click()
    panel = page.locator("#overlay .panel")
    assert panel.evaluate("panel => panel.offsetWidth === innerWidth && panel.offsetHeight === innerHeight")
    box = button.bounding_box()
    assert 0 <= box["x"] <= width - box["width"]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    button.click()
    assert panel.evaluate("panel => panel.offsetHeight < innerHeight")


def test_two_visitors_each_keep_their_own_map(visit, scan, tmp_path):
    make_scan("notumor", 7, side=120).save(tmp_path / "other.png")
    one, two = visit(), visit()
    maps = [choose(one, scan), choose(two, tmp_path / "other.png")]
    assert maps[0] != maps[1]
    for page, map_before in zip((one, two), maps, strict=True):
        slider = page.locator("#opacity input[type=range]")
        slider.fill("0.2")
        page.wait_for_function("before => document.querySelector('#overlay img').src !== before", arg=map_before)
        slider.fill("0.7")
        page.wait_for_function("before => document.querySelector('#overlay img').src === before", arg=map_before)


def test_a_map_is_saved_under_a_name_that_says_what_it_shows(visit, scan):
    page = visit()
    choose(page, scan)
    with page.expect_download() as download:
        page.locator("#save-map").click()
    assert re.fullmatch("(glioma|notumor)_grad-cam.png", download.value.suggested_filename)
