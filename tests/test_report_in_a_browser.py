"""The report as a reader's browser shows it, wide and narrow; skipped where there is no browser."""

import shutil

import pytest

from cleftcli.jobs.view import view
from cleftcli.viewing.scene import Subject
from tests.conftest import store
from tests.test_viewing import predicted, smooth, truth_of

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
WIDTHS = (1280, 400)

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(NAMES)} is installed")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report with every section, of names that would run as code were they not text."""
    folder = tmp_path_factory.mktemp("report") / "<script>alert(1)<"
    levels = smooth(1, (8, 40, 400))
    raw = store(f"{folder}/raw.zarr/raw", smooth(2, levels.shape, sigma=1))
    truth = store(f"{folder}/{'long' * 30}.zarr/clefts", truth_of(levels, 1))
    states = [0] * 148 + [1, 4]
    facts = {"volume": raw.address, "shape": list(raw.shape), "intensity_range": [0, 255]}
    address = predicted(folder, levels, states=states, **facts)
    found = view(Subject(address, truth.address, threshold=0.5), None, lambda *_: None)
    return found["report"]


@pytest.fixture(scope="module")
def chromium():
    """A browser."""
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=WIDTHS)
def opened(request, chromium, report):
    """The page in a window of this width, and whatever it asked for or complained of."""
    page = chromium.new_page(viewport={"width": request.param, "height": 800})
    heard, asked = [], []
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("dialog", lambda dialog: (heard.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"file://{report.replace('%', '%25').replace('#', '%23').replace('?', '%3F')}")
    yield page, heard, asked
    page.close()


def test_nothing_is_fetched_and_nothing_runs(opened):
    """No request but for the file and what is inside it, no complaint on the console."""
    _, heard, asked = opened
    assert heard == []
    assert [url.split(":")[0] for url in asked if not url.startswith("data:")] == ["file"]


def test_every_figure_is_there_to_be_seen(opened):
    """Loaded, with a size of its own, visible, and not wider than it may be."""
    page, _, _ = opened
    images = page.locator("img")
    assert images.count() >= 9
    for image in images.all():
        assert image.is_visible()
        assert image.evaluate("i => i.complete && Math.min(i.naturalWidth, i.naturalHeight)") > 0
        assert image.get_attribute("alt")
    assert {"precision_recall", "thresholds", "distances", "coverage", "intensities", "seams"} <= {
        each.get_attribute("id") for each in page.locator("figure[id]").all()
    }


def test_the_page_does_not_scroll_sideways(opened):
    """Wide tables and pictures scroll in their own boxes."""
    page, _, _ = opened
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= page.viewport_size["width"]


def test_links_lead_to_their_sections(opened):
    """Each entry of the list at the top has its section."""
    page, _, _ = opened
    for link in page.locator("nav a").all():
        assert page.locator(link.get_attribute("href")).count() == 1
