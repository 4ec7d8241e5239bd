"""``pliant explore`` as it is called; the page itself is tested in tests/explore."""

from __future__ import annotations

import sys

import pytest


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [((), ("dsrelu", 8765, True)), (("srelu[beta=0.1]", "--port", "0", "--no-browser"), ("srelu[beta=0.1]", 0, False))],
)
def test_explore_serves_what_is_asked_for(pliant, monkeypatch: pytest.MonkeyPatch, arguments, expected) -> None:
    served = []
    monkeypatch.setattr("pliant.explore.serve", lambda a, *, port, browser: served.append((a, port, browser)))
    code, out, err = pliant("explore", *arguments)
    assert code == 0, out + err
    assert served == [expected]


def test_explore_without_its_extra_says_what_to_install(pliant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pliant.explore.page", raising=False)
    monkeypatch.setitem(sys.modules, "nicegui", None)
    code, out, err = pliant("explore", "--no-browser")
    assert code == 2, out
    assert "pip install 'pliant[explore]'" in err
    assert "Traceback" not in err


def test_explore_has_no_option_for_another_interface(pliant) -> None:
    code, _, err = pliant("explore", "--host", "0.0.0.0")
    assert code == 2
    assert "No such option" in err
