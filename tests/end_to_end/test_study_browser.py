"""A study in a real browser: chosen where images are, looked through, saved, and gone with its visitor."""

from pathlib import Path

import pydicom
import pytest

from brain_xai.ui.study_page import SHELF
from tests.helpers.scans import LABELS
from tests.helpers.served import save_tiny_checkpoint, served, wait_until
from tests.helpers.studies import head, series_of, to_bytes, zipped

pytestmark = pytest.mark.browser
SLICES = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def address(folder):
    with served(save_tiny_checkpoint(folder / "tiny", LABELS)) as (_, address):
        yield address


@pytest.fixture
def page(visit):
    return visit(390, 844)


def files_of(series, folder: Path) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{number}.dcm" for number in range(len(series))]
    for path, one in zip(paths, series, strict=True):
        path.write_bytes(to_bytes(one))
    return paths


def test_a_study_from_its_files_to_what_is_saved(page, tmp_path):
    page.locator("#image input[type=file]").set_input_files(files_of(series_of(head(slices=SLICES)), tmp_path / "a"))
    shown = page.locator("#study-panel")
    shown.get_by_text(f"of {SLICES}:").wait_for()
    assert shown.locator("img").count() == 2
    assert "judged on its own" in page.locator("#study-notice").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")  # nothing to scroll sideways
    bars = page.locator("#study-strip svg")
    bars.scroll_into_view_if_needed()
    box = bars.bounding_box()
    for place, number in ((0.02, 1), (0.98, SLICES), (0.45, 5)):
        page.mouse.click(box["x"] + place * box["width"], box["y"] + box["height"] / 2)
        shown.get_by_text(f"Slice {number} of {SLICES}:").wait_for()
    assert page.locator("#study-position input[type=number]").input_value() == "5"
    page.get_by_role("button", name="Save images").click()
    link = page.locator("#study-saved a[href$='.dcm']")
    link.wait_for()
    with page.expect_download() as download:
        link.click()
    assert pydicom.dcmread(download.value.path()).NumberOfFrames == SLICES


def test_one_file_of_many_frames_is_a_study(page, tmp_path):
    [one] = series_of(head(slices=1), NumberOfFrames=4, PixelData=head(slices=4).tobytes())
    (tmp_path / "frames").write_bytes(to_bytes(one))
    page.locator("#image input[type=file]").set_input_files(tmp_path / "frames")
    page.locator("#study-panel").get_by_text("of 4:").wait_for()
    [one] = series_of(head(slices=1), NumberOfFrames=1)
    (tmp_path / "frame").write_bytes(to_bytes(one))
    page.locator("#image input[type=file]").set_input_files(tmp_path / "frame")
    page.locator("#overlay img").wait_for()


def test_several_series_are_a_choice(page, tmp_path):
    both = series_of(head(slices=4)) + series_of(head(slices=2))
    archive = zipped(tmp_path / "mixed.zip", {str(number): to_bytes(one) for number, one in enumerate(both)})
    page.locator("#image input[type=file]").set_input_files(archive)
    page.locator("#study-series input").click()
    page.get_by_role("option", name="2 slices").click()
    page.locator("#study-panel").get_by_text("of 2:").wait_for()
    assert wait_until(lambda: len(SHELF) == 1)  # not one for each time that the list has asked
    page.get_by_role("button", name="Delete my files now").click()
    page.locator("#study-result").wait_for(state="hidden")
    assert wait_until(lambda: len(SHELF) == 0)


def test_who_leaves_takes_the_study_along(page, tmp_path):
    page.locator("#image input[type=file]").set_input_files(files_of(series_of(head(slices=4)), tmp_path / "a"))
    page.locator("#study-panel").get_by_text("of 4:").wait_for()
    assert wait_until(lambda: len(SHELF) == 1)  # not one for each time that the list has asked
    page.context.close()
    assert wait_until(lambda: len(SHELF) == 0)
