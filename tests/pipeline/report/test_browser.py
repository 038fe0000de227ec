"""The page in a real browser, from disk."""

import pytest

from pipeline.report.page import build
from pipeline.report.recorded import read_run
from tests.pipeline.report.recorded_runs import Made, known_source, with_scores


def one(path):
    return [with_scores(Made(path / "run").write())]


def several(path):
    """Three methods of three seeds each."""
    kinds = {
        "scratch": {"scratch": True},
        "nai": {},
        "given": {"given": "models/small", "inherited": known_source(), "lost": 2},
    }
    return [Made(path / f"{name}-{seed}", seed=seed, **kind).write() for name, kind in kinds.items() for seed in (1, 2, 3)]


CASES = {
    "one": one,
    "nine": several,
    "going": lambda path: [Made(path / "run", recorded=37, half_a_line=True).write()],
    "nan": lambda path: [Made(path / "run", nan_at=33).write()],
    "empty": lambda path: [Made(path / "run", recorded=0).write()],
    "two growths": lambda path: [Made(path / "run", growths=2).write()],
}


def written(path, make):
    """The page of runs, and its file."""
    made = build([(None, read_run(run)) for run in make(path)])
    file = path / "report.html"
    file.write_text(made.html, encoding="utf-8")
    return made, file


@pytest.mark.parametrize("case", CASES)
def test_the_page_is_whole_at_any_width(look, tmp_path, case):
    made, file = written(tmp_path, CASES[case])

    def figures(page):
        # One call for all: a call for each figure would be most of the test.
        drawings = page.locator("svg.drawing")
        boxes = drawings.evaluate_all(
            "all => all.map(one => { const box = one.getBoundingClientRect(); return [box.width, box.height] })"
        )
        assert len(boxes) == len(made.plots) and all(wide > 250 and tall > 80 for wide, tall in boxes)
        assert all(drawings.evaluate_all("all => all.map(one => one.querySelector('g').getBBox().width)"))
        assert all(count > 3 for count in drawings.evaluate_all("all => all.map(one => one.querySelectorAll('text').length)"))
        letters = page.locator("figure:not([id*=attention]) svg text")
        # The height of a line of text; letters of 8.5 points on 328 pixels are 9 high with what surrounds them.
        heights = letters.evaluate_all("all => all.map(one => one.getBoundingClientRect().height)")
        assert all(height >= 8 for height in heights)

    look(file, figures)


def test_words_in_figures_can_be_selected(look, tmp_path):
    def select(page):
        label = page.locator("#figure-loss-tokens svg text", has_text="training tokens")
        assert label.is_visible()
        selected = label.evaluate("one => { getSelection().selectAllChildren(one); return getSelection().toString() }")
        assert selected.startswith("training tokens")

    look(written(tmp_path, one)[1], select)


@pytest.mark.slow
def test_the_page_prints(browser, tmp_path):
    page = browser.new_page()
    page.goto(written(tmp_path, several)[1].as_uri())
    assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 688, "height": 1000})  # A4 without its margins
    assert page.evaluate("document.documentElement.scrollWidth") <= 688
    figures = page.locator("figure").evaluate_all("all => all.map(one => getComputedStyle(one).breakInside)")
    assert set(figures) == {"avoid"}
    page.close()
