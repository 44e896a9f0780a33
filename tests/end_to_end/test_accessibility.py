"""axe-core finds nothing wrong with the page, in every state that a visitor meets."""

import json

import pytest

from tests.helpers.scans import make_scan
from tests.helpers.served import add_case, save_tiny_checkpoint, served

Axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe
pytestmark = pytest.mark.browser

STANDARDS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
# Without `preload`, which fetches all style sheets once more and waits for them for as long as a busy machine likes.
OPTIONS = {"runOnly": STANDARDS, "resultTypes": ["violations"], "preload": False}
# What is wrong with Gradio's own markup and cannot be changed from outside: {(rule, part of the element): reason}.
ALLOWED: dict[tuple[str, str], str] = {
    ("image-redundant-alt", "map.png"): "a tile of a gallery has its caption as the text of its image, too",
}


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    checkpoint = save_tiny_checkpoint(tmp_path_factory.mktemp("axe") / "tiny", ("glioma", "notumor"))
    add_case(checkpoint, "glioma")
    with served(checkpoint) as (_, address):
        yield address


def findings(page) -> list[str]:
    """Return what axe finds, one line for each element."""
    # Colors that fade in are too pale at first.
    page.add_style_tag(content="*, ::before, ::after { transition: none !important; animation: none !important; }")
    found = Axe().run(page, options=OPTIONS).response["violations"]
    return [
        f"{rule['id']} ({rule['impact']}): {node['html'][:200]} {json.dumps(node['target'])} {node['failureSummary']}"
        for rule in found
        for node in rule["nodes"]
        if not any(rule["id"] == name and part in node["html"] for name, part in ALLOWED)
    ]


@pytest.mark.parametrize(("width", "height", "colors"), [(1280, 720, "light"), (390, 844, "dark")])
def test_every_state_of_the_page_is_accessible(width, height, colors, visit, tmp_path):
    make_scan("glioma", 0, side=120).save(tmp_path / "scan.png")
    page = visit(width, height, color_scheme=colors)
    found = {"empty": findings(page)}
    page.locator("#cases button").first.click()
    page.locator("#no-guess").wait_for()
    found["case"] = findings(page)
    page.locator("#guess label").first.click()
    page.locator("#truth p").first.wait_for()
    found["guess"] = findings(page)
    page.locator("#image input[type=file]").set_input_files(tmp_path / "scan.png")
    page.locator("#truth p").first.wait_for(state="hidden")
    page.locator("#scan img").click()
    page.locator("#covered p").wait_for()
    found["answer, and something covered"] = findings(page)
    page.locator("#compare").click()
    page.locator("#gallery").get_by_text("Saliency", exact=True).wait_for()
    page.locator("#cancel").wait_for(state="hidden")
    found["comparison"] = findings(page)
    (tmp_path / "bad.png").write_bytes(b"")
    page.locator("#image input[type=file]").set_input_files(tmp_path / "bad.png")
    page.get_by_role("alert").wait_for()
    found["error"] = findings(page)
    assert not any(found.values()), "\n".join(f"{state}: {line}" for state, lines in found.items() for line in lines)
