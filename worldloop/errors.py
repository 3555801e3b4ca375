"""Every deliberate error of worldloop.

    WorldloopError
    ├── UnknownKeyError        a city, institution, wave, generator or sign that no table has
    ├── MalformedRecordError   a scene, recipe, plan, pack or table that does not follow its format
    ├── PlanConflictError      a wave that exists already with another plan
    ├── ClipRejectedError      a scene from which no usable clip can be rendered
    ├── JobFailedError         a GPU job that could not finish its share of clips
    ├── BudgetExceededError    a run that the ledger or the disk limit does not allow
    ├── StoreError             a store that lost a race, ignores preconditions or is full
    │   ├── UnreachableError   a store that does not answer, or asks to come back later
    │   ├── AccessError        a store or service that refuses who we are, or what anybody may read
    │   └── LogDamageError     a committed part of a log that is gone, or whose bytes have changed
    ├── LeaseHeldError         a second committer of a projection
    └── MissingExtraError      an optional package that is not installed

A message says what was found, what was expected and what to do; the values are attributes too.
"""

import difflib
import unicodedata
from collections.abc import Iterable


class WorldloopError(Exception):
    """Base of all deliberate errors."""


class UnknownKeyError(WorldloopError):
    """A key that the table it was looked up in does not have.

    Capitals, accents, spaces and hyphens of `key` do not keep it from being understood for the suggestion.

    Attributes:
        known: The keys of the table, sorted; aliases are not among them.
        near: The key or alias that was probably meant, or empty.

    Example:
        >>> str(UnknownKeyError("place", "tokio", ["tokyo", "lima"]))
        "No place has the key 'tokio'. Did you mean 'tokyo'? (2 known)"
    """

    def __init__(self, kind: str, key: str, known: Iterable[str], *, aliases: Iterable[str] = ()):
        self.kind, self.key, self.known = kind, key, sorted(known)
        self.near = _nearest(key, [*self.known, *aliases])
        listed = ", ".join(self.known[:8]) + (" ..." if len(self.known) > 8 else ".")
        hint = f"Did you mean {self.near!r}?" if self.near else f"Known: {listed}"
        told = f"{hint} ({len(self.known)} known)" if self.known else "There is none yet."
        super().__init__(f"No {kind} has the key {key!r}. {told}")


def _nearest(key: str, names: Iterable[str]) -> str:
    """The name that a key was probably meant to be; the first of those that are as near, or empty."""
    by_plain: dict[str, str] = {}
    for name in names:
        by_plain.setdefault(_plain(name), name)
    near = difflib.get_close_matches(_plain(key), by_plain, n=1)
    return by_plain[near[0]] if near else ""


def _plain(text: str) -> str:
    """A name without capitals and accents, in one way of parting words.

    Example:
        >>> _plain("São Paulo")
        'sao_paulo'
    """
    letters = unicodedata.normalize("NFKD", text.casefold())
    kept = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return "_".join(kept.replace("-", " ").replace("_", " ").split())


class MalformedRecordError(WorldloopError):
    """A record or file that does not follow its format."""

    def __init__(self, what: str, found: object, expected: str, remedy: str):
        self.what, self.found, self.expected, self.remedy = what, found, expected, remedy
        super().__init__(f"{what}: found {found!r}, expected {expected}. {remedy}")


class PlanConflictError(WorldloopError):
    """A wave has a plan already, and it is not the one that was asked for."""


class ClipRejectedError(WorldloopError):
    """No usable clip comes out of a scene, for example because the camera has nowhere to stand.

    Attributes:
        stage: Where it happened (`build`, `render`, `encode`, `audit`).
    """

    def __init__(self, stage: str, reason: str):
        self.stage, self.reason = stage, reason
        super().__init__(f"{stage}: {reason}")


class JobFailedError(WorldloopError):
    """A job that could not finish its share of clips."""


class BudgetExceededError(WorldloopError):
    """The ledger or the disk limit does not allow a run."""


class StoreError(WorldloopError):
    """A store lost a race, ignores preconditions or has no room."""


class UnreachableError(StoreError):
    """A store or service does not answer, or throttles; trying again later is right."""


class AccessError(StoreError):
    """A store or service refuses these credentials, or is open to the public."""


class LogDamageError(StoreError):
    """A batch or claim that was committed is gone from its store, or its bytes have changed.

    Attributes:
        key: Of the object.
        is_gone: Whether it is gone; otherwise its bytes are others.
    """

    def __init__(self, key: str, url: str, *, is_gone: bool):
        self.key, self.is_gone = key, is_gone
        found = "is gone" if is_gone else "has other bytes than were committed"
        super().__init__(
            f"The log's {key!r} in {url!r} {found}; expected the bytes that were acknowledged, as they "
            "never change. `worldloop catalog repair` brings them back from a mirror, a replica or "
            "the backup."
        )


class LeaseHeldError(WorldloopError):
    """Another process is the committer now.

    Attributes:
        name: Of the lease.
        holder: Who has it.
    """

    def __init__(self, name: str, holder: str, *, left_s: float):
        self.name, self.holder, self.left_s = name, holder, left_s
        super().__init__(
            f"{holder} holds the lease {name!r} for another {left_s:.0f} s; expected it to be free. "
            "Wait for that run to end; a lease whose holder was killed ends by itself."
        )


class MissingExtraError(WorldloopError):
    """An optional package is not installed.

    Example:
        >>> print(MissingExtraError("diffusers", "cosmos"))
        'diffusers' is not installed; this needs it. Install it with: pip install "worldloop[cosmos]"
    """

    def __init__(self, package: str, extra: str):
        self.package, self.extra = package, extra
        super().__init__(
            f"{package!r} is not installed; this needs it. "
            f'Install it with: pip install "worldloop[{extra}]"'
        )
