"""A local page to play with activations: what a coefficient does to a function, and to a network that trains with it.

``state``, ``reductions`` and ``training`` say what there is to show, and know no library for pages; ``charts`` turns it into
descriptions of charts; ``page`` alone knows the library that shows them.
"""

from __future__ import annotations

from pliant.errors import MissingExtraError

__all__ = ["PORT", "serve"]

PORT = 8765


def serve(activation: str = "dsrelu", *, port: int = PORT, browser: bool = True) -> None:
    """Show the page on this machine, and on no other, until it is interrupted.

    Args:
        activation: a spec of the catalogue to start with, such as ``"srelu[beta=0.1]"``.
        port: where to listen on 127.0.0.1, from 1024 on; 0 takes a free one.
        browser: open a browser.

    Raises:
        MissingExtraError: ``pliant[explore]`` is not installed.
        UnknownNameError, DomainError: no such activation; a port that cannot be used.
    """
    try:
        from pliant.explore.page import serve as serve_page
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "pliant":
            raise
        raise MissingExtraError(
            f"The page needs packages that are not installed, first of all {error.name!r}. Run pip install 'pliant[explore]'."
        ) from error
    serve_page(activation, port=port, browser=browser)
