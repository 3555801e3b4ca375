"""The registry of checkpoints: lines of promoted rounds, laid out as the hub's own cache.

    registry/<line>/
      snapshots/<round>/    the files of a checkpoint; they never change
      refs/round-<round>    says that the snapshot is whole; holds the round's key
      refs/main             the promoted round
      refs/shadow           a candidate that is tried on a share of the waves
      history/<n>.json      what was decided, numbered; the refs follow from it

A decision is written to the history first and to its ref then. A process that is killed between the
two leaves a ref that is behind; the next decision of the line, or the same one again, puts it right.
"""

import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import dagster as dg

from resources.site_store import SiteStore
from resources.store_client import folder_of
from resources.store_refusals import refusals
from worldloop import layout
from worldloop.errors import (
    MalformedRecordError,
    MissingExtraError,
    PlanConflictError,
    StoreError,
    UnknownKeyError,
)
from worldloop.federation.model_card import FULL_WEIGHTS, LORA_WEIGHTS
from worldloop.federation.rounds import ROUND_KEY
from worldloop.seeds import canonical_json, stream

MAIN, SHADOW = "main", "shadow"
README, EVALUATION = "README.md", "evaluation.json"
Event = Literal["promoted", "rolled_back", "shadowed", "withdrawn"]
_HISTORY_VERSION = 1
_NUMBER = re.compile(r"\d{6}\.json")


@dataclass(frozen=True)
class Decision:
    """One entry of a line's history.

    Attributes:
        event: What was decided.
        round: About which checkpoint.
        main: Promoted round afterwards; empty: the base alone.
        shadow: Shadow afterwards; empty: none.
        share: Share of the waves that the shadow makes.
        reason: Why.
        at: ISO time in UTC.
    """

    event: Event
    round: str
    main: str
    shadow: str = ""
    share: float = 0.0
    reason: str = ""
    at: str = ""
    history_version: int = _HISTORY_VERSION


class CheckpointRegistry(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Checkpoints of all lines; a line is named after its model, in lower case.

    Attributes:
        store: The coordinator's store.
        home: Folder for copies of checkpoints that lie in a bucket.
        endpoint: Address of the hub for uploads; empty takes the public one.
    """

    store: SiteStore
    home: str
    endpoint: str = ""

    def publish(self, line: str, round_key: str, files: Mapping[str, bytes]) -> bool:
        """Put a checkpoint into the registry; it is not promoted by that.

        Args:
            line: Of the model.
            round_key: Of the round that made it.
            files: Bytes by name: `README.md`, `evaluation.json` and weights,
                see `worldloop.federation.model_card.checkpoint_files`.

        Returns:
            Whether this call completed it.

        Raises:
            MalformedRecordError: If a file is missing, or the key is not a round's.
            PlanConflictError: If the round stands with other bytes.
            StoreError: If there is no room; a re-run goes on.
        """
        _check_files(round_key, files)
        for name in sorted(files):
            key = layout.registry_key(line, "snapshots", round_key, name)
            if not self.store.create(key, files[name]) and self.store.get(key) != files[name]:
                raise PlanConflictError(
                    f"Checkpoint {round_key} of line {line!r} stands with another {name}; checkpoints never "
                    "change. Publish what a new round made."
                )
        return self.store.create(_ref(line, f"round-{round_key}"), round_key.encode())

    def lines(self) -> list[str]:
        """Names of the lines that anything was decided about, in order."""
        keys = [key.split("/") for key, _ in self.store.list(layout.REGISTRY)]
        return sorted({parts[1] for parts in keys if parts[2] == "history"})

    def rounds(self, line: str) -> list[str]:
        """Rounds whose checkpoints are whole, oldest first."""
        prefix = layout.registry_key(line, "refs")
        names = [key.rsplit("/", 1)[1] for key, _ in self.store.list(prefix)]
        return sorted(name.removeprefix("round-") for name in names if name.startswith("round-"))

    def files(self, line: str, round_key: str) -> dict[str, bytes]:
        """The files of a checkpoint.

        Raises:
            UnknownKeyError: If there is none.
        """
        self._check_published(line, round_key)
        prefix = layout.registry_key(line, "snapshots", round_key)
        keys = [key for key, _ in self.store.list(prefix)]
        return {key.rsplit("/", 1)[1]: content for key, content in self.store.get_many(keys)}

    def main(self, line: str) -> str:
        """The promoted round; empty: none, the base alone."""
        return self._read_ref(line, MAIN)

    def shadow(self, line: str) -> str:
        """The round that is tried on a share of the waves; empty: none."""
        return self._read_ref(line, SHADOW)

    def chosen(self, line: str, wave: str) -> str:
        """The round that makes a wave: the shadow for its share of the waves, else the promoted one.

        The same history and wave give the same answer; empty: the base alone.
        """
        last = self._last(line)
        if last is None:
            return ""
        drawn = float(stream("shadow", line, last.shadow, wave).random())
        return last.shadow if last.shadow and drawn < last.share else last.main

    def history(self, line: str) -> list[Decision]:
        """All decisions, oldest first.

        Raises:
            MalformedRecordError: If an entry cannot be read.
        """
        return [_decision(key, each) for key, each in self.store.get_many(self._numbers(line))]

    def promote(self, line: str, round_key: str, *, reason: str = "") -> bool:
        """Make a published checkpoint the one that is used; a shadow of it ends with that.

        Returns:
            Whether it was not promoted already.

        Raises:
            UnknownKeyError: If it is not published.
            StoreError: If somebody else decided at the same time.
        """
        self._check_published(line, round_key)
        last = self._settled(line)
        if last is not None and last.main == round_key:
            return False
        shadow, share = (last.shadow, last.share) if last else ("", 0.0)
        if shadow == round_key:
            shadow, share = "", 0.0
        self._decide(line, Decision("promoted", round_key, round_key, shadow, share, reason))
        return True

    def try_as_shadow(self, line: str, round_key: str, *, share: float, reason: str = "") -> bool:
        """Let a published checkpoint make a share of the waves before it is promoted.

        Returns:
            Whether it was not tried with this share already.

        Raises:
            UnknownKeyError: If it is not published.
            MalformedRecordError: If the share is none, or it is promoted already.
            StoreError: If somebody else decided at the same time.
        """
        self._check_published(line, round_key)
        last = self._settled(line)
        main = last.main if last else ""
        if not 0 < share <= 1 or main == round_key:
            raise MalformedRecordError(
                f"shadow of line {line}",
                {"share": share, "round": round_key, "promoted": main},
                "a share above 0 and at most 1, of a round that is not promoted",
                "Correct it.",
            )
        if last is not None and (last.shadow, last.share) == (round_key, share):
            return False
        self._decide(line, Decision("shadowed", round_key, main, round_key, share, reason))
        return True

    def withdraw_shadow(self, line: str, *, reason: str) -> str:
        """End the trial of a shadow.

        Returns:
            The round that was tried; empty if none was.

        Raises:
            StoreError: If somebody else decided at the same time.
        """
        last = self._settled(line)
        if last is None or not last.shadow:
            return ""
        self._decide(line, Decision("withdrawn", last.shadow, last.main, reason=reason))
        return last.shadow

    def roll_back(self, line: str, reason: str, *, of: str = "") -> str:
        """Take the promoted checkpoint back: the one promoted before it is used again.

        Args:
            line: Of the model.
            reason: Why.
            of: The round that is taken back. If another one is promoted by now, nothing happens, so that a
                repeated call does not go back twice; empty: whichever is promoted.

        Returns:
            The promoted round afterwards; empty: the base alone.

        Raises:
            MalformedRecordError: If nothing is promoted.
            StoreError: If somebody else decided at the same time.
        """
        last = self._settled(line)
        promoted = last.main if last else ""
        if last is None or not promoted:
            raise MalformedRecordError(
                f"line {line} to roll back",
                "nothing promoted",
                "a promoted round",
                "Promote one first.",
            )
        if of and of != promoted:
            return promoted
        before = promoted_in_turn(self.history(line))[-2]
        self._decide(
            line, Decision("rolled_back", promoted, before, last.shadow, last.share, reason)
        )
        return before

    def local_folder(self, line: str, round_key: str) -> Path:
        """Where a checkpoint lies on this machine, for the paths of adapters; from a bucket it is copied once.

        Raises:
            UnknownKeyError: If it is not published.
            StoreError: If there is no room.
        """
        self._check_published(line, round_key)
        key = layout.registry_key(line, "snapshots", round_key)
        if folder_of(self.store.url) is not None:
            return self.store.local_path(key)
        folder = Path(self.home) / key
        if not folder.is_dir():
            self._copy(line, round_key, folder)
        return folder

    def upload(
        self, line: str, round_key: str, repo: str, *, token: str, private: bool = True
    ) -> str:
        """Put a checkpoint on the hub, tagged `round-<round>`; a promoted one is `main` there.

        One that is not promoted goes to the branch `candidates`. Files that stand there are not sent
        again, and a tag stays where it was set first.

        Args:
            line: Of the model.
            round_key: Which one.
            repo: `owner/name`; made if it is not there.
            token: With write access.
            private: Whether a new repository is.

        Returns:
            The commit.

        Raises:
            UnknownKeyError: If it is not published.
            StoreError: If the hub refuses, or cannot be reached; a re-run goes on.
        """
        folder = self.local_folder(line, round_key)
        branch = MAIN if self.main(line) == round_key else "candidates"
        with _in_clear_words(repo):
            api = _hub(self.endpoint, token)
            api.create_repo(repo, private=private, exist_ok=True)
            if branch != MAIN:
                api.create_branch(repo, branch=branch, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repo,
                folder_path=folder,
                revision=branch,
                commit_message=f"{line}, round {round_key}",
                delete_patterns=["*.safetensors", "adapter_config.json"],
            )
            api.create_tag(repo, tag=f"round-{round_key}", revision=commit.oid, exist_ok=True)
        return str(commit.oid)

    def _copy(self, line: str, round_key: str, folder: Path) -> None:
        files = self.files(line, round_key)
        size_bytes = sum(map(len, files.values()))
        with refusals(str(folder.parent), folder.name, size_bytes=size_bytes):
            folder.parent.mkdir(parents=True, exist_ok=True)
            # a folder of its own: of several processes that copy at once none may write into another's
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{round_key}.") as held:
                partial = Path(held) / round_key
                partial.mkdir()
                for name, content in files.items():
                    (partial / name).write_bytes(content)
                try:
                    partial.rename(folder)
                except OSError:  # another process was first, with the same bytes
                    if not folder.is_dir():
                        raise

    def _check_published(self, line: str, round_key: str) -> None:
        if not self.store.exists(_ref(line, f"round-{round_key}")):
            raise UnknownKeyError(f"checkpoint of line {line}", round_key, self.rounds(line))

    def _read_ref(self, line: str, name: str) -> str:
        key = _ref(line, name)
        return self.store.get(key).decode() if self.store.exists(key) else ""

    def _numbers(self, line: str) -> list[str]:
        keys = [key for key, _ in self.store.list(layout.registry_key(line, "history"))]
        return sorted(key for key in keys if _NUMBER.fullmatch(key.rsplit("/", 1)[1]))

    def _last(self, line: str) -> Decision | None:
        keys = self._numbers(line)
        return _decision(keys[-1], self.store.get(keys[-1])) if keys else None

    def settle(self, line: str) -> None:
        """Put the refs of a line right if a process was killed between its last decision and them."""
        self._settled(line)

    def _settled(self, line: str) -> Decision | None:
        """The last decision, its refs put right if a killed process left them behind."""
        last = self._last(line)
        if last is not None:
            self._point(line, last)
        return last

    def _point(self, line: str, decision: Decision) -> None:
        for name, wanted in ((MAIN, decision.main), (SHADOW, decision.shadow)):
            if self._read_ref(line, name) == wanted:
                continue
            if wanted:
                self.store.put(_ref(line, name), wanted.encode())
            else:
                self.store.delete(_ref(line, name))

    def _decide(self, line: str, decision: Decision) -> None:
        number = len(self._numbers(line)) + 1
        at = datetime.now(UTC).isoformat(timespec="seconds")
        record = {**asdict(decision), "at": at}
        key = layout.registry_key(line, "history", f"{number:06d}.json")
        if not self.store.create(key, canonical_json(record)):
            raise StoreError(
                f"Somebody else decided about line {line!r} at the same time ({key}); expected to be alone. "
                "Look at its history and decide again."
            )
        self._point(line, decision)


def promoted_in_turn(history: Sequence[Decision]) -> tuple[str, ...]:
    """What was promoted and not taken back, oldest first: the base (empty), ..., what is promoted now."""
    stack = [""]
    for decision in history:
        if decision.event == "promoted":
            stack.append(decision.round)
        elif decision.event == "rolled_back":
            stack.pop()
    return tuple(stack)


def _decision(key: str, content: bytes) -> Decision:
    try:
        record: dict[str, Any] = json.loads(content)
        found = Decision(**record)
    except (ValueError, TypeError) as error:
        raise MalformedRecordError(
            key, str(error), "a decision as docs/formats.md says", "Restore it from the backup."
        ) from error
    if found.history_version != _HISTORY_VERSION:
        raise MalformedRecordError(
            key,
            found.history_version,
            f"history_version {_HISTORY_VERSION}",
            "Read it with the release of worldloop that wrote it.",
        )
    return found


def _check_files(round_key: str, files: Mapping[str, bytes]) -> None:
    missing = [name for name in (README, EVALUATION) if name not in files]
    if not {LORA_WEIGHTS, FULL_WEIGHTS} & files.keys():
        missing.append(LORA_WEIGHTS)
    if missing or not ROUND_KEY.fullmatch(round_key):
        raise MalformedRecordError(
            f"checkpoint {round_key}",
            sorted(files),
            f"a round's key and the files {README}, {EVALUATION} and {LORA_WEIGHTS} or {FULL_WEIGHTS}",
            f"Add {', '.join(missing) or 'a key such as r0001'}.",
        )


def _ref(line: str, name: str) -> str:
    return layout.registry_key(line, "refs", name)


def _hub(endpoint: str, token: str) -> Any:
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.utils.tqdm import disable_progress_bars
    except ImportError as error:
        raise MissingExtraError("huggingface_hub", "cosmos") from error
    disable_progress_bars()  # logs hold what happened, not bars
    return HfApi(endpoint=endpoint or None, token=token)


@contextmanager
def _in_clear_words(repo: str) -> Iterator[None]:
    """Turn the hub's answers into one message each, with what to do."""
    import httpx2
    from huggingface_hub import errors

    try:
        yield
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        remedy = (
            "Make a token of kind Write at https://huggingface.co/settings/tokens."
            if status in (401, 403, 404)
            else "Run it again later: what stands is not sent again."
        )
        raise StoreError(
            f"The hub answered {status} when {repo!r} was written to; expected it to take the checkpoint. {remedy}"
        ) from error
    except (errors.OfflineModeIsEnabled, httpx2.TransportError) as error:
        raise StoreError(
            f"The hub cannot be reached for {repo!r} ({type(error).__name__}); expected an answer. Check the "
            "network and run it again; the registry itself is complete without it."
        ) from error
    except RuntimeError as error:  # of a single file, whatever broke it off
        raise StoreError(
            f"The hub did not take all files of {repo!r} ({error}); expected all of them. Run it again: what "
            "stands is not sent again."
        ) from error
