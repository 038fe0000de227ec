"""Pages in a real browser, from disk."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

WIDTHS = (360, 1280)


@pytest.fixture(scope="module")
def browser():
    """Chromium; skips the test where there is none."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium here: Debian's package of that name has it")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def look(browser) -> Iterator[Callable[[Path, Callable[[Page], None]], None]]:
    """Return what opens a file at each width and looks at it: no line is cut, nothing is fetched, and nothing goes wrong."""

    def open_and_look(file: Path, check: Callable[[Page], None]) -> None:
        page = browser.new_page()
        messages: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("dialog", lambda dialog: (messages.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: asked.append(request.url))
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 800})
            page.goto(file.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            check(page)
        page.close()
        assert messages == [] and asked == [file.as_uri()] * len(WIDTHS)

    yield open_and_look
