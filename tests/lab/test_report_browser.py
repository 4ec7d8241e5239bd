"""What a browser makes of the page, with the page's own security policy in force: keyboard, slider, themes, network, axe.

Needs chromium and chromedriver on the PATH; the check of accessibility loads axe-core from the file that PLIANT_AXE names
(node_modules/axe-core/axe.min.js of ``npm install axe-core``).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_report import NASTY, partial, sample

from pliant.lab.report import build

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install 'pliant[dev]'")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="no chromium with chromedriver on the PATH to open the page with"
)

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(sample(), tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1300,1000", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.binary_location = CHROMIUM or ""
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser: Any) -> Open:
    def open_(path: Path, width: int = 1300) -> Any:
        browser.set_window_size(width, 1000)
        browser.get("about:blank")
        for kind in ("browser", "performance"):
            browser.get_log(kind)
        browser.get(path.as_uri())
        WebDriverWait(browser, 120).until(
            lambda d: d.execute_script("return document.documentElement.dataset.charts") == "ready"
        )
        return browser

    return open_


def requests(browser: Any) -> list[str]:
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [m["params"]["request"]["url"] for m in sent if m["method"] == "Network.requestWillBeSent"]


def first_cells(table: Any) -> list[str]:
    return [c.text for c in table.find_elements(By.CSS_SELECTOR, "tbody tr:not([hidden]) th") if c.is_displayed()]


@pytest.mark.parametrize("width", [1300, 700, 500])
def test_every_chart_is_drawn_without_a_word_on_the_console_or_a_request(page: Path, opened: Open, width: int) -> None:
    browser = opened(page, width)
    figures = browser.find_elements(By.CSS_SELECTOR, "figure[data-figure]")
    assert len(figures) == 13
    assert all(figure.find_elements(By.CSS_SELECTOR, "svg.marks") for figure in figures)
    assert browser.get_log("browser") == []
    assert [url for url in requests(browser) if not url.startswith(("data:", "blob:"))] == [page.as_uri()]


def test_sorting_and_filtering_need_no_mouse(page: Path, opened: Open) -> None:
    browser = opened(page)
    table = browser.find_element(By.ID, "main-table")
    head = table.find_elements(By.CSS_SELECTOR, "thead button")[1]
    browser.execute_script("arguments[0].focus()", head)
    head.send_keys(Keys.ENTER)
    assert head.find_element(By.XPATH, "..").get_attribute("aria-sort") == "descending"
    assert first_cells(table)[0] == "SReLU"
    head.send_keys(Keys.SPACE)
    assert head.find_element(By.XPATH, "..").get_attribute("aria-sort") == "ascending"
    assert first_cells(table)[0] == "PELU"
    field = browser.find_element(By.CSS_SELECTOR, "#table .filter input")
    assert field.accessible_name.startswith("Filter the rows of: Test metrics")
    field.send_keys("worse")
    assert first_cells(table) == ["Sigmoid"]
    assert browser.find_element(By.CSS_SELECTOR, "#table .filter output").text == "1 of 16"
    field.send_keys(Keys.BACKSPACE * 5)
    assert len(first_cells(table)) == 16
    summary = browser.find_element(By.CSS_SELECTOR, "#figure-forest details.data summary")
    summary.send_keys(Keys.ENTER)
    assert len(browser.find_elements(By.CSS_SELECTOR, "#figure-forest details.data tbody tr")) == 15
    assert browser.find_elements(By.CSS_SELECTOR, "#figure-forest details.data .filter input")


def marks(browser: Any, figure: str) -> str:
    """Everything that the figure draws."""
    return str(browser.execute_script("return document.querySelector(arguments[0]).outerHTML", f"#figure-{figure} svg"))


@pytest.mark.parametrize("figure", ["shape", "layers"])
def test_the_slider_moves_the_chart_by_keyboard(page: Path, opened: Open, figure: str) -> None:
    browser = opened(page)
    before = marks(browser, figure)
    slider = browser.find_element(By.CSS_SELECTOR, f"#figure-{figure} input[type=range]")
    slider.send_keys(Keys.HOME)
    WebDriverWait(browser, 10).until(lambda d: marks(d, figure) != before)
    start = marks(browser, figure)
    slider.send_keys(Keys.END)
    WebDriverWait(browser, 10).until(lambda d: marks(d, figure) != start)
    assert marks(browser, figure) == before
    assert browser.get_log("browser") == []


def test_selectors_change_the_panels(page: Path, opened: Open) -> None:
    browser = opened(page)
    for figure, choice, wanted in (("shape", "ReLU", "ReLU"), ("coefficients", "DSReLU", "slope"), ("layers", "Swish", "beta")):
        Select(browser.find_element(By.CSS_SELECTOR, f"#figure-{figure} select")).select_by_visible_text(choice)
        WebDriverWait(browser, 10).until(
            lambda d, f=figure, w=wanted: w in d.find_element(By.CSS_SELECTOR, f"#figure-{f} svg").text
        )
    assert browser.get_log("browser") == []


def test_dark_follows_the_system_until_the_reader_chooses(page: Path, opened: Open) -> None:
    browser = opened(page)
    script = "return [document.body, document.querySelector('#figure-forest svg .role-axis-label text')].map((e, i) => "
    script += "getComputedStyle(e)[i ? 'fill' : 'backgroundColor'])"

    def prefer(scheme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    prefer("light")
    light = browser.execute_script(script)
    prefer("dark")
    dark = browser.execute_script(script)
    button = browser.find_element(By.ID, "theme")
    label = button.text
    button.send_keys(Keys.ENTER)
    chosen = browser.execute_script(script)
    prefer("light")
    assert all(a != b for a, b in zip(light, dark, strict=True))
    assert label == "Light page"
    assert chosen == light


def test_figures_are_saved_in_three_forms(page: Path, opened: Open) -> None:
    browser = opened(page)
    browser.execute_script(
        "window.saved = []; document.addEventListener('click', (e) => "
        "{ if (e.target.download) { e.preventDefault(); window.saved.push(e.target.download); } }, true)"
    )
    for kind in ("csv", "svg", "png"):
        browser.find_element(By.CSS_SELECTOR, f"#figure-forest [data-save={kind}]").send_keys(Keys.ENTER)
    WebDriverWait(browser, 10).until(lambda d: len(d.execute_script("return window.saved")) == 3)
    assert sorted(browser.execute_script("return window.saved")) == ["forest.csv", "forest.png", "forest.svg"]


PARTS = [pytest.param(what, id=what, marks=[] if what == "nothing run" else [pytest.mark.slow]) for what, _ in partial()]


@pytest.mark.parametrize("what", PARTS)
def test_partial_pages_raise_no_error_either(what: str, tmp_path: Path, opened: Open) -> None:
    browser = opened(build(dict(partial())[what], tmp_path))
    assert browser.get_log("browser") == []


def test_a_hostile_name_runs_nothing(tmp_path: Path, opened: Open) -> None:
    import dataclasses

    hostile = {**sample().labels, "srelu": NASTY}
    data = dataclasses.replace(sample(), title=NASTY, labels=hostile, verdict=None, remarks=(NASTY,))
    browser = opened(build(data, tmp_path))
    assert browser.find_element(By.TAG_NAME, "h1").text == NASTY
    assert browser.get_log("browser") == []


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(page: Path, opened: Open, scheme: str) -> None:
    source = os.environ.get("PLIANT_AXE")
    if not source or not Path(source).is_file():
        pytest.skip("PLIANT_AXE does not name axe.min.js; `npm install axe-core` has it")
    browser = opened(page)
    browser.execute_cdp_cmd("Page.setBypassCSP", {"enabled": True})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    opened(page)
    for summary in browser.find_elements(By.CSS_SELECTOR, "details > summary")[:4]:
        summary.send_keys(Keys.ENTER)
    browser.execute_script(Path(source).read_text(encoding="utf-8"))
    browser.set_script_timeout(120)
    found = browser.execute_async_script("axe.run(document).then(arguments[0], (e) => arguments[0]({ error: String(e) }))")
    browser.execute_cdp_cmd("Page.setBypassCSP", {"enabled": False})
    assert len(found["passes"]) > 30
    assert [(v["impact"], v["id"], v["nodes"][0]["html"][:200]) for v in found["violations"]] == []
