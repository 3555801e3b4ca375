"""Keeps the terminal for people: what jobs and libraries print goes into a file instead."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.table import Table

WIDE = 200  # columns of a table that goes to a file or a pipe


@contextlib.contextmanager
def chatter_in(log: Path) -> Iterator[TextIO]:
    """Send standard output and error of this process and its children to a file.

    Args:
        log: Appended to; made if it is not there.

    Yields:
        The terminal's own stream, for progress and results.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    with log.open("ab") as file, os.fdopen(os.dup(kept[1]), "w") as terminal:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield terminal
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, original in enumerate(kept, start=1):
                os.dup2(original, number)
                os.close(original)


def show_table(table: Table) -> None:
    """Print a table: as wide as a terminal is, or with nothing cut where there is no terminal."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDE)
    console.print(table)
