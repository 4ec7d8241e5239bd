"""The page, with NiceGUI's own simulated visitor; its server, with a real one; and once in a real browser."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pliant.errors import DomainError, MissingExtraError, UnknownNameError
from pliant.explore import serve

HERE = importlib.util.find_spec("nicegui") is not None
needs_page = pytest.mark.skipif(not HERE, reason="NiceGUI is not installed (pip install 'pliant[explore]')")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def visit(story: Callable[[Any, Any], Awaitable[None]], spec: str = "dsrelu") -> None:
    """Open the page as a simulated visitor and let ``story(user, page)`` happen."""
    from nicegui.testing.user_simulation import user_simulation

    from pliant.explore.page import Page
    from pliant.explore.state import Explored

    pages: list[Page] = []

    def root() -> None:
        pages.append(Page(Explored.of(spec)))
        pages[-1].build()

    async def whole() -> None:
        async with user_simulation(root) as user:
            await user.open("/")
            await story(user, pages[-1])

    asyncio.run(whole())


def found(user: Any, mark: str) -> Any:
    (element,) = user.find(marker=mark).elements
    return element


def line(chart: Any, i: int = 1) -> list:
    return chart.options["series"][i]["data"]


@needs_page
def test_it_opens_with_what_was_asked_for() -> None:
    async def story(user: Any, page: Any) -> None:
        await user.should_see("SReLU(1, 0.1)   beside   ReLU")
        assert found(user, "words").text == "is ELU(0.1)"
        assert found(user, "slider beta").value == 0.1
        assert found(user, "gain").text.startswith("Init gain 1.4")

    visit(story, "srelu[beta=0.1]")


@needs_page
def test_sliders_and_numbers_change_what_is_drawn() -> None:
    async def story(user: Any, page: Any) -> None:
        before = list(line(page.value))
        with user:
            found(user, "slider beta").set_value(0.0)
        assert line(page.value) != before
        assert found(user, "number beta").value == 0.0
        assert found(user, "words").text == "is ReLU\nand ELU(0)\nand 1 · ReLU"
        assert page.race.contestants[0].network.act1.beta == 0.0, "what is trained is what is shown"
        with user:
            found(user, "number alpha").set_value(1.5)
        assert found(user, "slider alpha").value == 1.5
        assert line(page.value)[-1] == [4.0, 6.0]

    visit(story, "srelu")


@needs_page
def test_a_wrong_number_is_told_where_it_is_and_used_nowhere() -> None:
    async def story(user: Any, page: Any) -> None:
        before = list(line(page.value))
        with user:
            found(user, "number beta").set_value(-1.0)
        assert found(user, "number beta").error == "beta must be a number >= 0."
        assert found(user, "number alpha").error is None
        assert line(page.value) == before
        with user:
            found(user, "number beta").set_value(0.5)
        assert found(user, "number beta").error is None
        assert page.explored.values["beta"] == 0.5

    visit(story, "srelu")


@needs_page
def test_what_only_two_coefficients_together_show_is_told_too() -> None:
    async def story(user: Any, page: Any) -> None:
        with user:
            found(user, "number min_val").set_value(1.5)
        assert "cannot be built" in found(user, "number min_val").error
        assert page.explored.values["min_val"] == -1.0

    visit(story, "hardtanh")


@needs_page
def test_t_moves_the_schedule_and_taking_a_coefficient_in_hand_ends_it() -> None:
    async def story(user: Any, page: Any) -> None:
        start = found(user, "slider slope").value
        with user:
            found(user, "slider t").set_value(1.0)
        assert found(user, "slider slope").value < start / 5
        assert line(page.schedule)[0][0] == [1.0, page.explored.values["slope"]] or page.schedule.options["series"][1]["data"]
        with user:
            found(user, "slider slope").set_value(1.0)
        assert found(user, "kind slope").value == "fixed"
        assert found(user, "words").text == "is the identity: a network of these is linear"
        with user:
            found(user, "kind slope").set_value("scheduled")
        assert page.explored.schedules

    visit(story)


@needs_page
def test_another_activation_has_other_knobs() -> None:
    async def story(user: Any, page: Any) -> None:
        with user:
            page.choose.set_value("arelu")
            page.variant.set_value("prelu")
        assert [found(user, f"slider {n}").value for n in "abcd"] == [1.0, 0.25, 0.0, 0.0]
        assert found(user, "words").text == "is LeakyReLU(0.25)"
        with user:
            page.compare.set_value("gelu")
        assert page.value.options["series"][0]["name"] == "GELU"
        assert [c.name for c in page.race.contestants] == ["AReLU prelu", "GELU"]

    visit(story)


@needs_page
def test_training_starts_pauses_and_starts_over() -> None:
    async def story(user: Any, page: Any) -> None:
        user.find(marker="start").click()
        for _ in range(200):
            await asyncio.sleep(0.05)
            if page.race.step >= 30:
                break
        assert page.race.step >= 30
        user.find(marker="start").click()
        while page.busy:
            await asyncio.sleep(0.02)
        stopped = page.race.step
        await asyncio.sleep(0.3)
        assert page.race.step == stopped
        assert page.explored.t == pytest.approx(page.race.t, abs=0.05), "the clock moves what is shown"
        assert f"Step {stopped} of" in found(user, "told").text
        assert page.coefficients.options["series"][0]["data"][-1][0] == stopped
        user.find(marker="reset").click()
        assert page.race.step == 0
        assert page.explored.t == 0.0

    visit(story)


@needs_page
def test_every_activation_can_be_shown() -> None:
    from pliant import catalog

    async def story(user: Any, page: Any) -> None:
        for name in catalog.ALL:
            with user:
                page.choose.set_value(name)
            assert catalog.ALL[name].display in page.title.text

    visit(story)


# --- who may look ---------------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A real server in a process of its own; its port."""
    if not HERE:
        pytest.skip("NiceGUI is not installed (pip install 'pliant[explore]')")
    port = free_port()
    code = f"from pliant.explore import serve; serve('dsrelu', port={port}, browser=False)"
    # It must not take itself for a test.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "NICEGUI"))}
    folder = tmp_path_factory.mktemp("server")
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-c", code], cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        for _ in range(240):
            if process.poll() is not None or ask(port)[0] == 200:
                break
            time.sleep(0.25)
        assert process.poll() is None, (folder / "log").read_text()
        yield port
    finally:
        process.terminate()
        process.wait(20)
    assert [p.name for p in folder.iterdir()] == ["log"], "it leaves nothing behind"


def ask(port: int, address: str = "127.0.0.1", **headers: str) -> tuple[int, str]:
    request = urllib.request.Request(f"http://{address}:{port}/", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def listening(port: int) -> set[str]:
    """The addresses, in hexadecimal, on which this machine listens at a port."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if Path(table).exists():
            rows = [row.split() for row in Path(table).read_text().splitlines()[1:]]
            found |= {
                row[1].rpartition(":")[0] for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port
            }
    return found


def test_it_listens_on_loopback_alone(server: int) -> None:
    assert ask(server)[0] == 200
    assert ask(server, "localhost")[0] == 200
    if Path("/proc/net/tcp").exists():
        assert listening(server) == {"0100007F"}


def test_names_and_origins_of_others_are_refused(server: int) -> None:
    """A name that a stranger's DNS points here, and a stranger's page that speaks to the socket."""
    assert ask(server, Host="evil.example")[0] == 400
    assert ask(server, Host=f"evil.example:{server}")[0] == 400
    assert ask(server, Origin="http://evil.example")[0] == 403
    assert ask(server, Origin="null")[0] == 403
    assert ask(server, Origin=f"http://127.0.0.1:{server}")[0] == 200
    handshake = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    key = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    for stranger in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}):
        with socket.create_connection(("127.0.0.1", server), timeout=5) as connection:
            headers = {"Host": f"127.0.0.1:{server}", **handshake, **key, **stranger}
            head = "".join(f"{k}: {v}\r\n" for k, v in headers.items())
            path = "/_nicegui_ws/socket.io/?EIO=4&transport=websocket"
            connection.sendall(f"GET {path} HTTP/1.1\r\n{head}\r\n".encode())
            assert b" 101 " not in connection.recv(200).partition(b"\r\n")[0]


def test_the_page_asks_nobody_else_for_anything(server: int) -> None:
    text = ask(server)[1]
    # w3.org is the name of a namespace in the picture of the icon.
    outside = [u for u in re.findall(r"(?:src|href)=[\"'](https?://[^\"']+)", text) if "127.0.0.1" not in u]
    assert outside == []


@needs_page
def test_the_guard_looks_at_the_visitors_address() -> None:
    from pliant.explore.page import Loopback

    sent: list[dict[str, Any]] = []

    async def inside(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "inside"})

    async def ask_from(client: Any, kind: str, origin: bytes | None = None) -> str:
        sent.clear()
        headers = [(b"host", b"127.0.0.1:1"), *([(b"origin", origin)] if origin else [])]

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await Loopback(inside)({"type": kind, "client": client, "headers": headers, "method": "GET"}, None, send)  # type: ignore[arg-type]
        return str(sent[0]["type"])

    for kind, refusal in (("http", "http.response.start"), ("websocket", "websocket.close")):
        assert asyncio.run(ask_from(("127.0.0.1", 5), kind)) == "inside"
        assert asyncio.run(ask_from(("::1", 5), kind)) == "inside"
        for stranger in (("192.168.1.7", 5), ("testclient", 5), None):
            assert asyncio.run(ask_from(stranger, kind)) == refusal
        assert asyncio.run(ask_from(("127.0.0.1", 5), kind, b"http://evil.example")) == refusal


# --- mistakes -------------------------------------------------------------------------------------------------------------


@needs_page
def test_a_port_that_is_taken_or_none() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(DomainError, match="something else listens"):
            serve(port=other.getsockname()[1], browser=False)
    with pytest.raises(DomainError, match="from 1024 to 65535"):
        serve(port=80, browser=False)
    with pytest.raises(UnknownNameError, match="Did you mean 'dsrelu'"):
        serve("dsrlu", browser=False)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pliant.explore.page", raising=False)
    monkeypatch.setitem(sys.modules, "nicegui", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'pliant\[explore\]'"):
        serve(browser=False)


# --- in a browser ---------------------------------------------------------------------------------------------------------

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)


@pytest.mark.slow
@pytest.mark.skipif(
    CHROMIUM is None or shutil.which("chromedriver") is None or importlib.util.find_spec("selenium") is None,
    reason="needs chromium, chromedriver and selenium",
)
def test_in_a_real_browser(server: int) -> None:
    """Every chart is drawn, the keyboard moves a slider and the curve, the training runs, nothing is fetched elsewhere."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        driver.set_window_size(1280, 940)
        driver.get(f"http://127.0.0.1:{server}/")
        wait = WebDriverWait(driver, 60)
        wait.until(lambda d: len(d.find_elements(By.CSS_SELECTOR, ".nicegui-echart canvas")) >= 5)
        title = driver.find_element(By.CSS_SELECTOR, "[role=status]")
        wait.until(lambda d: "DSReLU(10.58)" in title.text)
        slider = driver.find_element(By.CSS_SELECTOR, "[aria-label^='t, progress of training, from'] [tabindex='0']")
        slider.send_keys(*[Keys.ARROW_RIGHT] * 5)
        # Echoes of the server may swallow a key that was pressed without a pause.
        wait.until(lambda d: re.search(r"DSReLU\(10\.[345]", title.text))
        next(b for b in driver.find_elements(By.TAG_NAME, "button") if "Start" in b.text).click()
        # Any step from 50 on: a look now and then would miss a certain one.
        wait.until(lambda d: int((re.search(r"Step (\d+) of 600", d.page_source) or ["", "0"])[1]) >= 50)
        wide = driver.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
        assert wide, "nothing is to be scrolled sideways"
        assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []
        asked = set()
        for entry in driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                asked.add(message["params"]["request"]["url"])
            elif message["method"] == "Network.webSocketCreated":
                asked.add(message["params"]["url"])
        # "chrome:" and "data:" stay in the browser.
        assert {u for u in asked if u.startswith(("http", "ws")) and f"//127.0.0.1:{server}/" not in u} == set()
        assert len(asked) > 10
    finally:
        driver.quit()
