"""``pliant explore``: a page to play with an activation."""

from __future__ import annotations

from typing import Annotated

import typer


def explore(
    activation: Annotated[
        str, typer.Argument(metavar="[ACTIVATION]", help='What to start with, e.g. dsrelu or "srelu[beta=0.1]".')
    ] = "dsrelu",
    port: Annotated[int, typer.Option(help="Where to listen on 127.0.0.1; 0 for any port that is free.")] = 8765,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only say where the page is.")] = False,
) -> None:
    """Open a page to play with an activation: its coefficients, its shape, and a network that trains with it.

    The page is for this machine alone.
    """
    from pliant import explore as room

    room.serve(activation, port=port, browser=not no_browser)
