"""The page itself: the one file that knows NiceGUI. It shows what the other modules say, and computes nothing."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

from nicegui import app, run, ui
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from pliant.errors import DomainError, PliantError
from pliant.explore import charts, state
from pliant.explore.charts import DARK, LIGHT, Theme
from pliant.explore.state import Explored, Kind, Knob
from pliant.explore.training import TASKS, Plan, Race

__all__ = ["HOST", "Loopback", "Page", "protect", "serve"]

HOST = "127.0.0.1"
"""The page runs code for whoever reaches it, so nobody else may: there is no option for another interface."""
NAMES = ("127.0.0.1", "localhost")
DEFAULT = "the default"
BATCHES = {32: "32 examples", 8: "8 examples", 0: "full batch"}
PRIMARY = {False: "#00609a", True: "#56b4e9"}
"""The colour of what can be moved or pressed on a light and on a dark page, under white and under dark letters."""
NEGATIVE = {False: "#b3261e", True: "#ff9c92"}
CSS = """
.body--light { color-scheme: light; }
.body--dark { color-scheme: dark; }
body { font-family: system-ui, sans-serif; font-size: 16px; }
.nicegui-content { padding: 8px 12px; gap: 6px; }
h1 { font-size: 22px; font-weight: 650; margin: 0; line-height: 1.2; }
h2 { font-size: 17px; font-weight: 650; margin: 0; line-height: 1.2; }
.panels { display: grid; grid-template-columns: 292px minmax(0, 1fr) minmax(0, 1.06fr); gap: 14px; width: 100%; }
@media (max-width: 1000px) { .panels { grid-template-columns: minmax(0, 1fr); } }
.panel { display: flex; flex-direction: column; gap: 4px; min-width: 0; }
.knob { border-left: 4px solid #0072b2; padding-left: 8px; width: 100%; }
.knob .q-slider { height: 26px; }
.fact { font-size: 17px; line-height: 1.35; }
.note { font-size: 14px; opacity: .85; line-height: 1.3; }
.q-field__label, .q-field__native, .q-field__input { font-size: 16px; }
.q-btn { text-transform: none; font-size: 16px; }
.q-field--dense .q-field__bottom { padding: 2px 0 0; font-size: 14px; min-height: 0; }
:focus-visible { outline: 3px solid #e69f00; outline-offset: 2px; }
"""


# --- who may look ---------------------------------------------------------------------------------------------------------


class Loopback:
    """Lets in what comes from this machine and from this page: a loopback address, and no foreign origin.

    With :class:`TrustedHostMiddleware` before it, which refuses names that somebody else's DNS points here, a page from
    elsewhere that is open in the same browser can neither read this one nor speak into its socket.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and not self._welcome(scope):
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            else:
                await PlainTextResponse("Only this machine's own page is served.", status_code=403)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    @staticmethod
    def _welcome(scope: Scope) -> bool:
        client = scope.get("client")
        try:
            near = client is not None and ipaddress.ip_address(client[0]).is_loopback
        except ValueError:
            near = False
        headers = dict(scope["headers"])
        origin, host = headers.get(b"origin"), headers.get(b"host", b"")
        return near and (origin is None or origin == b"http://" + host)


def protect() -> None:
    """Put the two guards before everything that the app serves."""
    app.add_middleware(Loopback)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(NAMES), www_redirect=False)


def serve(activation: str, *, port: int, browser: bool) -> None:
    """Serve the page on ``127.0.0.1:port`` until interrupted; see :func:`pliant.explore.serve`."""
    start = Explored.of(activation)
    port = _free(port)
    protect()
    print(f"The page is at http://{HOST}:{port} and on this machine alone. Ctrl-C ends it.", flush=True)
    ui.run(
        lambda: Page(start).build(),
        host=HOST,
        port=port,
        title="Pliant: explore activations",
        show=browser,
        reload=False,
        dark=None,
        language="en-US",
        favicon="📈",
        show_welcome_message=False,
        tailwind=False,
    )


def _free(port: int) -> int:
    if port != 0 and not 1024 <= port <= 65535:
        raise DomainError(f"explore was given port {port}; expected a number from 1024 to 65535, or 0 for any that is free.")
    with socket.socket() as probe:
        # What a server that has just ended leaves behind does not count as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise DomainError(
                f"explore was given port {port}, where something else listens already ({error.strerror}). Give --port another "
                "number, or 0 for any that is free."
            ) from None
        return int(probe.getsockname()[1])


# --- the page -------------------------------------------------------------------------------------------------------------


class Page:
    """One visitor's page: what is explored, what it is compared with, and the training of both."""

    def __init__(self, start: Explored) -> None:
        self.explored = start
        self.other = Explored("leakyrelu" if start.name == "relu" else "relu")
        self.plan = Plan()
        self.race: Race | None = None
        self.running = False
        self.busy = False
        self.speed = 10
        self.theme: Theme = LIGHT

    # --- layout -----------------------------------------------------------------------------------------------------------

    def build(self) -> None:
        """Make the elements and fill them."""
        ui.add_css(CSS)
        self._colours(False)
        self.dark = ui.dark_mode(value=False, on_change=self._ink)
        with ui.row().classes("w-full items-center no-wrap").style("width: 100%; align-items: center; gap: 16px"):
            ui.html("<h1>What a coefficient does</h1>", sanitize=False)
            self.title = ui.label().style("font-size: 18px; flex: 1").props('role="status"')
            ui.switch("Dark", on_change=lambda e: self.dark.set_value(e.value)).props('aria-label="Dark page"')
        with ui.element("div").classes("panels"):
            with ui.element("section").classes("panel").props('aria-label="Coefficients"'):
                self._choosing()
            with ui.element("section").classes("panel").props('aria-label="Function"'):
                self.value = _chart(302)
                self.derivative = _chart(258)
                self.schedule = _chart(172)
            with ui.element("section").classes("panel").props('aria-label="Training"'):
                self._training()
        self._rebuild_knobs()
        self._reset()
        ui.timer(0.1, self._tick)

    def _choosing(self) -> None:
        names = state.choices()
        self.choose = _select(names, self.explored.name, "Activation", lambda e: self._choose(e.value))
        self.variant = _select([], None, "Variant", lambda e: self._vary(e.value))
        self.compare = _select(names, self.other.name, "Compare and train beside", lambda e: self._compare(e.value))
        self.knobs = ui.element("div").style("display: flex; flex-direction: column; gap: 8px; width: 100%; margin-top: 4px")
        ui.html("<h2>At these values</h2>", sanitize=False).style("margin-top: 6px")
        self.words = ui.label().classes("fact").style("white-space: pre-line").mark("words")
        self.gain = ui.label().classes("fact").style("white-space: pre-line").mark("gain")

    def _training(self) -> None:
        with ui.row().style("width: 100%; gap: 8px; align-items: flex-start; flex-wrap: nowrap"):
            _select(list(TASKS), self.plan.task, "Data", lambda e: self._replan(task=e.value)).style("width: 132px")
            _select(BATCHES, self.plan.batch, "Batch", lambda e: self._replan(batch=e.value)).style("width: 140px")
            self.lr = _number("Learning rate", self.plan.lr, self._lr_problem, lambda v: self._replan(lr=v), step=0.001)
            self.seed = _number("Seed", self.plan.seed, self._seed_problem, lambda v: self._replan(seed=int(v)), step=1)
        with ui.row().style("width: 100%; gap: 10px; align-items: center; flex-wrap: nowrap"):
            self.start = ui.button("Start", on_click=self._start_or_pause).props("unelevated color=primary").mark("start")
            ui.button("Reset", on_click=self._reset).props("outline").mark("reset")
            ui.label("Speed").props('id="speed-label"')
            slow = ui.slider(min=1, max=50, step=1, value=self.speed, on_change=lambda e: setattr(self, "speed", int(e.value)))
            slow.props('aria-label="Speed: optimizer steps between two pictures"').style("flex: 1; margin-right: 12px")
        self.told = ui.label().classes("note").mark("told")
        self.learning = _chart(244)
        with ui.row().style("width: 100%; gap: 8px; flex-wrap: nowrap; align-items: stretch"):
            self.decision = _chart(316).style("flex: 1.1; min-width: 0")
            self.coefficients = _chart(316).style("flex: 1; min-width: 0")

    # --- what was chosen --------------------------------------------------------------------------------------------------

    def _choose(self, name: str) -> None:
        self.explored, self.race = Explored(name), None
        self._rebuild_knobs()
        self._reset()

    def _vary(self, variant: str | None) -> None:
        chosen = None if variant in (None, DEFAULT) else variant
        if chosen != self.explored.variant:
            self.explored, self.race = Explored(self.explored.name, chosen), None
            self._rebuild_knobs()
            self._reset()

    def _compare(self, name: str) -> None:
        self.other = Explored(name)
        self._reset()

    def _replan(self, **changes: Any) -> None:
        self.plan = Plan(**{**vars(self.plan), **changes})
        self._reset()

    @staticmethod
    def _lr_problem(value: float | None) -> str | None:
        return _problem(lambda: Plan(lr=float("nan") if value is None else value))

    @staticmethod
    def _seed_problem(value: float | None) -> str | None:
        whole = value is not None and float(value).is_integer()
        return _problem(lambda: Plan(seed=int(value))) if whole and value is not None else "seed must be a whole number"

    # --- the knobs --------------------------------------------------------------------------------------------------------

    def _rebuild_knobs(self) -> None:
        """New knobs, for another activation or another kind of a coefficient."""
        variants = [DEFAULT, *state.variants(self.explored.name)]
        self.variant.set_options(variants, value=self.explored.variant or DEFAULT)
        self.variant.set_visibility(len(variants) > 1)
        self.sliders: dict[str, ui.slider] = {}
        self.numbers: dict[str, ui.number] = {}
        self.kinds: dict[str, ui.select] = {}
        self.knobs.clear()
        with self.knobs:
            for knob in self.explored.knobs:
                self._knob(knob)
            self._time()

    def _knob(self, knob: Knob) -> None:
        with ui.element("div").classes("knob"):
            with ui.row().style("gap: 8px; align-items: flex-start; flex-wrap: nowrap; width: 100%"):
                number = _number(
                    knob.name,
                    _round(knob.value),
                    partial(self._knob_problem, knob.name),
                    partial(self._turn, knob.name),
                    step=knob.step,
                )
                self.numbers[knob.name] = number.mark(f"number {knob.name}").style("flex: 1")
                if len(knob.kinds) > 1:
                    words = {"fixed": "fixed", "learned": "learned", "scheduled": "follows t"}
                    kinds = {k: words[k] for k in knob.kinds}
                    kind = _select(kinds, knob.kind, f"{knob.name} is", lambda e: self._kind(knob.name, e.value))
                    self.kinds[knob.name] = kind.mark(f"kind {knob.name}").style("width: 112px")
            slider = ui.slider(
                min=knob.low, max=knob.high, step=knob.step, value=knob.value, on_change=partial(self._slid, knob.name)
            )
            slider.props(f'aria-label="{knob.name}, from {knob.low:g} to {knob.high:g}"').mark(f"slider {knob.name}")
            self.sliders[knob.name] = slider

    def _time(self) -> None:
        with ui.element("div").classes("knob").style("border-color: #009e73") as self.clock:
            number = _number("t, progress of training", self.explored.t, self._t_problem, self._move, step=0.01)
            self.numbers["t"] = number.mark("number t").style("width: 100%")
            slider = ui.slider(min=0, max=1, step=0.01, value=self.explored.t, on_change=lambda e: self._move(e.value))
            self.sliders["t"] = slider.props('aria-label="t, progress of training, from 0 to 1"').mark("slider t")

    def _knob_problem(self, name: str, value: float | None) -> str | None:
        return self.explored.problem(name, value)

    def _t_problem(self, value: float | None) -> str | None:
        return _problem(lambda: self.explored.at(float("nan") if value is None else value))

    def _slid(self, name: str, event: Any) -> None:
        # Echoes of what the page itself has set, in the slider's steps, are no wish of the visitor.
        if event.value is not None and abs(event.value - self.explored.values[name]) > 1e-9 and not self._showing:
            self._turn(name, round(event.value, 9))

    _showing = False

    def _turn(self, name: str, value: float) -> None:
        if self._showing or abs(value - self.explored.values[name]) <= 1e-9:
            return
        problem = self.explored.problem(name, value)
        self.numbers[name].error = problem
        if problem:
            return
        self.explored = self.explored.with_value(name, value)
        if self.trained.at(0.0) == self.explored.at(0.0):
            self._show_function()
            return
        # Another start is another training. The moment that is looked at stays.
        t = self.explored.t
        self._reset()
        if t:
            self._move(t)

    def _kind(self, name: str, kind: Kind) -> None:
        if not self._showing:
            self.explored = self.explored.with_kind(name, kind)
            self._reset()

    def _move(self, t: float) -> None:
        if not self._showing and abs(t - self.explored.t) > 1e-9:
            self.explored, self.other = self.explored.at(t), self.other.at(t)
            self._show_function()

    # --- showing ----------------------------------------------------------------------------------------------------------

    def _ink(self) -> None:
        dark = bool(self.dark.value)
        self.theme = DARK if dark else LIGHT
        self._colours(dark)
        self.start.props(f"text-color={'dark' if dark else 'white'}")
        self._show_function()
        self._show_training()

    @staticmethod
    def _colours(dark: bool) -> None:
        ui.colors(primary=PRIMARY[dark], negative=NEGATIVE[dark])

    def _show_function(self) -> None:
        chosen, other = self.explored, self.other
        self._showing = True
        for knob in chosen.knobs:
            self.sliders[knob.name].props(f"min={knob.low} max={knob.high}").set_value(knob.value)
            if knob.name in self.kinds:
                self.kinds[knob.name].set_value(knob.kind)
            self.numbers[knob.name].error = None
            self.numbers[knob.name].set_value(_round(knob.value))
        self.sliders["t"].set_value(chosen.t)
        self.numbers["t"].set_value(round(chosen.t, 4))
        self._showing = False
        scheduled = chosen.schedules
        self.clock.set_visibility(bool(scheduled or other.schedules))
        curve, beside = chosen.curve(), other.curve()
        frame = [chosen.at(t).curve() for t in (0.0, 1.0)] if scheduled else []
        names = (chosen.title, curve, other.title, beside, self.theme)
        _draw(self.value, charts.value(*names, frame=frame, layers=self._layers()))
        _draw(self.derivative, charts.derivative(*names, frame=frame))
        self.schedule.set_visibility(bool(scheduled))
        _draw(self.schedule, charts.schedule({n: chosen.path(n) for n in scheduled}, chosen.t, chosen.values, self.theme))
        said = chosen.reductions()
        self.words.set_text("\n".join(f"{'is' if i == 0 else 'and'} {s}" for i, s in enumerate(said)) or "has no simpler name")
        gains = chosen.gains()
        self.gain.set_text(
            f"Init gain {_figure(gains.forward)} forward,\n{_figure(gains.backward)} backward"
            if gains.forward or gains.backward
            else "Flat everywhere: no init gain."
        )
        self.title.set_text(f"{chosen.title}   beside   {other.title}")

    def _layers(self) -> dict[str, state.Curve]:
        """The shapes that the layers of the training have learned, where they have left the one that is shown."""
        if self.race is None or self.race.step == 0:
            return {}
        return {f"layer {i}": c for i, c in enumerate(self.race.contestants[0].shapes(), 1)}

    # --- training ---------------------------------------------------------------------------------------------------------

    def _reset(self) -> None:
        """Both networks and the clock back to the start."""
        self.running, self.race = False, None
        self.start.set_text("Start")
        self.explored, self.other = self.explored.at(0.0), self.other.at(0.0)
        self.trained = self.explored
        self._show_function()
        name, beside = _short(self.explored), _short(self.other)
        beside = f"{beside} (default)" if beside == name else beside
        try:
            self.race = Race(self.plan, {name: self.explored.build, beside: self.other.build})
        except PliantError as error:
            self.race = None
            self.told.set_text(str(error))
            return
        self._show_training()

    def _start_or_pause(self) -> None:
        if self.race is None or self.race.finished:
            self._reset()
        self.running = not self.running and self.race is not None
        self.start.set_text("Pause" if self.running else "Go on")

    async def _tick(self) -> None:
        if not self.running or self.busy or self.race is None:
            return
        self.busy, race = True, self.race
        try:
            await run.io_bound(race.advance, self.speed)
        except PliantError as error:
            self.running = False
            self.told.set_text(str(error))
            return
        finally:
            self.busy = False
        if race is not self.race:
            return
        if race.finished:
            self.running = False
            self.start.set_text("Again")
        if self.explored.schedules:
            self.explored, self.other = self.explored.at(race.t), self.other.at(race.t)
        self._show_function()
        self._show_training()

    def _show_training(self) -> None:
        if self.race is None:
            return
        self.told.set_text(charts.told(self.race))
        _draw(self.learning, charts.learning(self.race, self.theme))
        self.decision.set_visibility(self.race.task.window is not None)
        _draw(self.decision, charts.decision(self.race, self.theme))
        moving = bool(self.race.contestants[0].coefficients)
        self.coefficients.set_visibility(moving)
        _draw(self.coefficients, charts.coefficients(self.race, self.theme))


# --- elements -------------------------------------------------------------------------------------------------------------


def _select(options: Any, value: Any, label: str, on_change: Callable[[Any], None]) -> ui.select:
    return ui.select(options, value=value, label=label, on_change=on_change).props("dense options-dense").style("width: 100%")


def _number(
    label: str, value: float, problem: Callable[[float | None], str | None], use: Callable[[float], None], *, step: float
) -> ui.number:
    """A number that says at its own place what is wrong with it, and is used only where nothing is."""

    def changed(event: Any) -> None:
        if problem(event.value) is None:
            use(event.value)

    return ui.number(label, value=value, step=step, validation=problem, on_change=changed).props(
        "dense hide-bottom-space debounce=350"
    )


def _chart(height: int) -> ui.echart:
    return ui.echart({"series": []}).style(f"width: 100%; height: {height}px").props('role="img"')


def _draw(chart: ui.echart, options: charts.Options) -> None:
    chart.options.clear()
    chart.options.update(options)
    chart.update()


def _problem(attempt: Callable[[], object]) -> str | None:
    try:
        attempt()
    except PliantError as error:
        return str(error)
    return None


def _round(value: float) -> float:
    return float(f"{value:.6g}")


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"


def _short(explored: Explored) -> str:
    return explored.entry.display + (f" {explored.variant}" if explored.variant else "")
