"""A visitor in a real browser: from the upload to the map, with no internet, beside another visitor."""

import re
import shutil
from pathlib import Path

import pytest

from brain_xai import METHODS
from tests.helpers.scans import make_scan
from tests.helpers.served import job_threads, save_tiny_checkpoint, served, wait_until

sync_playwright = pytest.importorskip("playwright.sync_api").sync_playwright
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
pytestmark = [pytest.mark.browser, pytest.mark.skipif(not CHROMIUM, reason="no chromium is installed")]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    quick = save_tiny_checkpoint(folder / "quick", ("glioma", "notumor"))
    slow = save_tiny_checkpoint(folder / "slow", ("glioma", "notumor"), side=1024)
    with served(quick, slow) as (_, address):
        yield address


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS.split())
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, address):
    """Return a function that opens the page as a new visitor; fails if the page asks another machine for anything."""
    contexts, elsewhere = [], []

    def open_page(width: int = 1280, height: int = 900):
        context = browser.new_context(viewport={"width": width, "height": height})
        contexts.append(context)
        page = context.new_page()
        page.on(
            "request", lambda request: elsewhere.append(request.url) if is_elsewhere(request.url, address) else None
        )
        page.goto(address)
        page.locator("#image input[type=file]").wait_for(state="attached")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not elsewhere


def is_elsewhere(url: str, address: str) -> bool:
    return not url.startswith((address, "data:", "blob:"))


def choose(page, path: Path) -> str:
    """Upload an image and return the address of its map."""
    page.locator("#image input[type=file]").set_input_files(path)
    page.locator("#overlay img").wait_for()
    return page.locator("#overlay img").get_attribute("src")


def choose_slow_model(page) -> str:
    """Choose the model for which occlusion takes seconds, and return the address of its map."""
    before = page.locator("#overlay img").get_attribute("src")
    page.locator("#checkpoint input").click()
    page.get_by_role("option", name="slow", exact=True).click()
    page.wait_for_function("before => document.querySelector('#overlay img').src !== before", arg=before)
    return page.locator("#overlay img").get_attribute("src")


def choose_method(page, title: str) -> None:
    page.locator("#method input").click()
    page.get_by_role("option", name=title, exact=True).click()


@pytest.fixture
def scan(tmp_path) -> Path:
    make_scan("glioma", 0, side=120).save(tmp_path / "scan.png")
    return tmp_path / "scan.png"


@pytest.mark.parametrize("width", [1280, 390])
def test_upload_shows_answer_and_map(width, visit, scan):
    page = visit(width)
    choose(page, scan)
    assert page.get_by_text("This is not a diagnosis.").is_visible()
    assert "%" in page.locator("#probabilities").inner_text()
    assert "Grad-CAM for" in page.locator("#caption").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")  # nothing to scroll sideways


def test_a_bad_file_gets_a_sentence_and_takes_the_answer_away(visit, scan, tmp_path):
    page = visit()
    choose(page, scan)
    (tmp_path / "bad.png").write_bytes(b"")
    page.get_by_label("Remove Image").click()
    page.locator("#image input[type=file]").set_input_files(tmp_path / "bad.png")
    page.get_by_role("alert").wait_for()
    assert "The file is empty." in page.get_by_role("alert").inner_text()
    assert not page.locator("#overlay").is_visible()
    assert not page.locator("#probabilities").is_visible()


def test_occlusion_shows_progress_and_can_be_cancelled(visit, scan):
    page = visit()
    choose(page, scan)
    grad_cam = choose_slow_model(page)
    choose_method(page, "Occlusion")
    page.locator("#start").click()
    page.locator("#progress progress").wait_for()
    page.locator("#cancel").click()
    page.locator("#start").wait_for()  # the button comes back: there is no map yet
    assert not page.locator("#progress progress").is_visible()
    assert page.locator("#overlay img").get_attribute("src") == grad_cam
    page.locator("#start").click()
    page.get_by_text("Occlusion for").wait_for(timeout=200_000)  # long, for a machine that does other things as well
    assert page.locator("#overlay img").get_attribute("src") != grad_cam


def test_leaving_the_page_stops_the_work(visit, scan):
    page = visit()
    choose(page, scan)
    choose_slow_model(page)
    choose_method(page, "Occlusion")
    page.locator("#start").click()
    threads = []
    assert wait_until(lambda: threads.extend(job_threads()) or threads)
    page.close()
    threads[0].join(120)
    assert not threads[0].is_alive()


@pytest.mark.parametrize("width", [1280, 390])
def test_all_methods_side_by_side(width, visit, scan):
    page = visit(width)
    choose(page, scan)
    page.locator("#compare").click()
    page.locator("#gallery img").nth(len(METHODS) - 1).wait_for(timeout=200_000)
    for method in METHODS.values():
        caption = page.locator("#gallery").get_by_text(method.title, exact=True)
        assert caption.is_visible()
        assert caption.evaluate("caption => caption.scrollWidth <= caption.clientWidth"), "nothing is cut off"
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert not page.locator("#cancel").is_visible()
    page.locator("#gallery button.thumbnail-item").first.click()
    for part in (".media-button img", ".caption"):
        page.locator(f"#gallery .preview {part}").wait_for()
        assert is_on_screen(page, f"#gallery .preview {part}")
    shares = page.locator("[aria-label*=share i], [title*=share i]")
    assert shares.count() + page.get_by_role("button", name=re.compile("share", re.I)).count() == 0


def is_on_screen(page, selector: str) -> bool:
    """Return whether all of an element can be seen without scrolling, and none of its text is cut off."""
    return page.locator(selector).evaluate(
        """element => {
            const { left, top, right, bottom } = element.getBoundingClientRect();
            const fits = element.scrollWidth <= element.clientWidth;
            return fits && left >= 0 && top >= 0 && right <= innerWidth && bottom <= innerHeight;
        }"""
    )


@pytest.mark.parametrize("width", [1280, 390])
def test_the_map_fills_the_screen_and_there_is_a_way_back(width, visit, scan):
    page = visit(width)
    choose(page, scan)
    page.locator("#overlay").get_by_label("Fullscreen", exact=True).click()
    back = page.get_by_label("Exit fullscreen mode")
    back.wait_for()
    page.wait_for_function("width => document.querySelector('#overlay').offsetWidth >= 0.99 * width", arg=width)
    box = back.bounding_box()
    assert 0 <= box["x"] <= width - box["width"]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    back.click()
    page.wait_for_function("document.querySelector('#overlay').offsetWidth <= 512")


def test_two_visitors_each_keep_their_own_map(visit, scan, tmp_path):
    make_scan("notumor", 7, side=120).save(tmp_path / "other.png")
    one, two = visit(), visit()
    maps = [choose(one, scan), choose(two, tmp_path / "other.png")]  # a file is named after its content
    assert maps[0] != maps[1]
    for page, map_before in zip((one, two), maps, strict=True):
        slider = page.locator("#opacity input[type=range]")
        slider.fill("0.2")
        page.wait_for_function("before => document.querySelector('#overlay img').src !== before", arg=map_before)
        slider.fill("0.7")
        page.wait_for_function("before => document.querySelector('#overlay img').src === before", arg=map_before)


def test_an_example_is_one_click_away(visit):
    page = visit()
    page.locator("#examples button").first.click()
    page.locator("#overlay img").wait_for()
