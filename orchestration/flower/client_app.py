"""The app of a SuperNode: takes a site's part of a round, has it done, and answers with what was sealed.

Flower starts a process for every message, so this one is thin: it imports neither Dagster nor torch. The
work is done as a site agent does it, by the site's warm trainer, which outlives the message.
"""

import logging
import tempfile
from pathlib import Path
from typing import Any

from orchestration.flower.messages import packed, unpacked
from orchestration.site_agent import DELTA_STEP, SCORES_STEP, Step, work_in_child
from worldloop.errors import MalformedRecordError, WorldloopError

log = logging.getLogger(__name__)


def build_app() -> Any:
    """The `flwr.clientapp.ClientApp`: messages of type train ask for the delta, of evaluate for the scores."""
    from flwr.app import Context, Message
    from flwr.clientapp import ClientApp

    def delta(message: Message, context: Context) -> Message:
        content = answer(message.content, site_of(context.node_config), DELTA_STEP)
        return Message(content=content, reply_to=message)

    def scores(message: Message, context: Context) -> Message:
        content = answer(message.content, site_of(context.node_config), SCORES_STEP)
        return Message(content=content, reply_to=message)

    client_app = ClientApp()
    client_app.train()(delta)
    client_app.evaluate()(scores)
    return client_app


def answer(content: Any, site: str, step: str) -> Any:
    """Do what a message asks for.

    Args:
        content: Of the message: files of the round, and the facts `round` and `sites`, those that are asked.
        site: Whose node this is.
        step: `delta` or `scores`.

    Returns:
        The content of the answer: what was sent, and the facts `site` and `failed`. Why it failed stays in the
        log of the node, as words may quote what must not leave a site.

    Raises:
        MalformedRecordError: If the message is none of the coordinator's.
    """
    files, facts = unpacked(content)
    round_key = str(facts.get("round", ""))
    if site not in facts.get("sites", ()):
        return packed({}, {"site": site, "failed": False})
    with tempfile.TemporaryDirectory(prefix="worldloop-parcel-") as folder:
        parcel = Path(folder)
        write_files(parcel / "in", files)
        (parcel / "out").mkdir()
        try:
            work_in_child(Step(round_key, step), site, parcel=parcel)
        except WorldloopError as error:
            log.warning("%s of %s: %s", step, round_key, error)
            return packed({}, {"site": site, "failed": True})
        return packed(read_files(parcel / "out"), {"site": site, "failed": False})


def site_of(node_config: Any) -> str:
    """The site that a node speaks for, as its `--node-config 'site="aws"'` says.

    Raises:
        MalformedRecordError: If it does not say.
    """
    site = node_config.get("site")
    if not isinstance(site, str) or not site:
        raise MalformedRecordError(
            "configuration of the SuperNode",
            sorted(node_config),
            "the name of its site",
            "Start it with --node-config 'site=\"aws\"'.",
        )
    return site


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    """Write files by their keys.

    Raises:
        MalformedRecordError: If a key leads out of the folder.
    """
    for key, content in files.items():
        path = folder / key
        if not path.resolve().is_relative_to(folder.resolve()):
            raise MalformedRecordError(
                "file of the coordinator", key[:80], "a key within the store", "Ask who runs it."
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def read_files(folder: Path) -> dict[str, bytes]:
    """Files of a folder, by their keys."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


app = build_app()
