"""Visitors in a real browser, who see that the page asks no other machine for anything."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
LONG = 200_000  # milliseconds, for a busy machine


@pytest.fixture(scope="module")
def browser():
    sync_playwright = pytest.importorskip("playwright.sync_api").sync_playwright
    with sync_playwright() as playwright:
        installed = shutil.which("chromium") or shutil.which("google-chrome") or playwright.chromium.executable_path
        if not Path(installed).exists():
            pytest.skip("no chromium is installed")
        browser = playwright.chromium.launch(executable_path=installed, args=ARGUMENTS.split())
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, address) -> Iterator[Callable]:
    """Return a function that opens the page at `address`, a fixture of the test, as a new visitor."""
    contexts, elsewhere = [], []

    def note(request) -> None:
        if not request.url.startswith((address, "data:", "blob:")):
            elsewhere.append(request.url)

    def open_page(width: int = 1280, height: int = 900, script: str = "", **settings: str):
        context = browser.new_context(viewport={"width": width, "height": height}, **settings)
        contexts.append(context)
        context.set_default_timeout(LONG)
        page = context.new_page()
        page.add_init_script(script)
        page.on("request", note)
        page.goto(address)
        page.locator("#image input[type=file]").wait_for(state="attached")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not elsewhere
