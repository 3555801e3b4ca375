"""Named moments at which a process may be killed by a test; outside tests nobody watches them."""

from collections.abc import Callable

_watchers: list[Callable[[str], None]] = []


def reached(name: str) -> None:
    """Say that a moment has come, e.g. `iceberg.before_commit`."""
    for watcher in _watchers:
        watcher(name)


def watch(watcher: Callable[[str], None]) -> None:
    """Call `watcher` at every moment from now on, in this process."""
    _watchers.append(watcher)
