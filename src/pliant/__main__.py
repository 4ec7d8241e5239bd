"""``python -m pliant``: the command line of the Python that is asked, where ``pliant`` on the path may be another's."""

from pliant.cli import main

main()
