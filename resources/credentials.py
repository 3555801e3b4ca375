"""Secrets, fetched at the moment of use and kept nowhere.

Configuration holds only where a secret is kept: `env:NAME` is a variable of this process. So no
secret can reach a run's configuration, a log line, metadata or the event store. This is the one
place besides `orchestration/deployments.py` that reads the environment.
"""

import os
from collections.abc import Mapping

from worldloop.errors import MalformedRecordError, StoreError


def resolved(secrets: Mapping[str, str]) -> dict[str, str]:
    """The secrets themselves.

    Args:
        secrets: Option to where its value is kept, e.g. `{"aws_secret_access_key": "env:AWS_KEY"}`.

    Raises:
        MalformedRecordError: If a place is none that is known.
        StoreError: If there is no such secret; the message names the place and never a value.
    """
    return {option: _fetch(place) for option, place in secrets.items()}


def _fetch(place: str) -> str:
    scheme, _, name = place.partition(":")
    if scheme != "env" or not name:
        raise MalformedRecordError(
            "secret", place, "env:NAME", "Say in sites.toml where the secret is kept."
        )
    if name not in os.environ:
        raise StoreError(
            f"The secret {place!r} is not there; expected the variable {name} in this process's "
            "environment. Set it where Dagster's daemon and its runs are started."
        )
    return os.environ[name]
