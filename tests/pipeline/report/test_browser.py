"""The page in a real browser, from disk."""

import shutil

import pytest
from playwright.sync_api import sync_playwright

from pipeline.report.page import build
from pipeline.report.recorded import read_run
from tests.pipeline.report.recorded_runs import Made, known_source, with_scores

CHROMIUM = shutil.which("chromium")
WIDTHS = (360, 1280)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: Debian's package of that name has it")


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def one(path):
    return [with_scores(Made(path / "run").write())]


def several(path):
    """Three methods of three seeds each."""
    return [
        Made(path / f"{name}-{seed}", seed=seed, **kind).write()
        for name, kind in (
            ("scratch", {"scratch": True}),
            ("nai", {}),
            ("given", {"given": "models/small", "inherited": known_source(), "lost": 2}),
        )
        for seed in (1, 2, 3)
    ]


CASES = {
    "one": one,
    "nine": several,
    "going": lambda path: [Made(path / "run", recorded=37, half_a_line=True).write()],
    "nan": lambda path: [Made(path / "run", nan_at=33).write()],
    "empty": lambda path: [Made(path / "run", recorded=0).write()],
    "two growths": lambda path: [Made(path / "run", growths=2).write()],
}


@pytest.mark.parametrize("case", CASES)
def test_the_page_is_whole_at_any_width(browser, tmp_path, case):
    made = build([(None, read_run(path)) for path in CASES[case](tmp_path)])
    file = tmp_path / "report.html"
    file.write_text(made.html, encoding="utf-8")
    page = browser.new_page()
    heard, asked = [], []
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 800})
        page.goto(file.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        drawings = page.locator("svg.drawing")
        assert drawings.count() == len(made.plots)
        # One call for all: a call for each figure would be most of the test.
        boxes = drawings.evaluate_all(
            "all => all.map(one => { const box = one.getBoundingClientRect(); return [box.width, box.height] })"
        )
        assert all(wide > 250 and tall > 80 for wide, tall in boxes)
        drawn = drawings.evaluate_all("all => all.map(one => one.querySelector('g').getBBox().width)")
        assert all(drawn)
        words = drawings.evaluate_all("all => all.map(one => one.querySelectorAll('text').length)")
        assert all(count > 3 for count in words)
        letters = page.locator("figure:not([id*=attention]) svg text")
        heights = letters.evaluate_all("all => all.map(one => one.getBoundingClientRect().height)")
        # The height of a line of text; letters of 8.5 points on 328 pixels are 9 high with what surrounds them.
        assert all(height >= 8 for height in heights)
    page.close()
    assert heard == []
    assert asked == [file.as_uri()] * len(WIDTHS)


def test_words_in_figures_can_be_selected(browser, tmp_path):
    file = tmp_path / "report.html"
    file.write_text(build([(None, read_run(one(tmp_path)[0]))]).html, encoding="utf-8")
    page = browser.new_page()
    page.goto(file.as_uri())
    label = page.locator("#figure-loss-tokens svg text", has_text="training tokens")
    assert label.is_visible()
    selected = label.evaluate("one => { getSelection().selectAllChildren(one); return getSelection().toString() }")
    assert selected.startswith("training tokens")
    page.close()


def test_the_page_prints(browser, tmp_path):
    file = tmp_path / "report.html"
    file.write_text(build([(None, read_run(path)) for path in several(tmp_path)]).html, encoding="utf-8")
    page = browser.new_page()
    page.goto(file.as_uri())
    assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 688, "height": 1000})  # A4 without its margins
    assert page.evaluate("document.documentElement.scrollWidth") <= 688
    figures = page.locator("figure").evaluate_all("all => all.map(one => getComputedStyle(one).breakInside)")
    assert set(figures) == {"avoid"}
    page.close()
