"""The app of a SuperLink: brings the coordinator's rounds to the SuperNodes, and their answers into the store.

It decides nothing. What sites send becomes the files that a common store would have; the graph's sensors
aggregate, judge and end the round as ever. So a killed run loses nothing: it is submitted again, finds
in the store what has come, and asks the others. Flower's own loop and strategies are not used: they begin
at round 1 after a restart, and wait without limit for nodes that are gone.
"""

import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from orchestration.flower.messages import packed, unpacked
from orchestration.flower.parcels import accept, files_for
from orchestration.site_agent import DELTA_STEP, SCORES_STEP
from resources.round_files import (
    RoundStanding,
    open_rounds,
    read_participants,
    read_round_plan,
    standing_of,
)
from resources.site_store import SiteStore
from worldloop.errors import UnknownKeyError, WorldloopError
from worldloop.federation.round_states import deadline
from worldloop.federation.rounds import RoundPlan

_MESSAGE_TYPES: Mapping[str, str] = {DELTA_STEP: "train", SCORES_STEP: "evaluate"}
_PAUSE_S = 15.0  # before a node that failed is asked again
_LEAST_TTL_S = 60.0

log = logging.getLogger(__name__)


def build_app() -> Any:
    """The `flwr.serverapp.ServerApp`."""
    from flwr.app import Context
    from flwr.serverapp import Grid, ServerApp

    def main(grid: Grid, context: Context) -> None:
        from orchestration.deployments import federation

        _speak()
        sites, config = federation(), context.run_config
        store, poll_s = sites.store(sites.coordinator), float(config["poll-s"])
        serve(Courier(grid, store, poll_s=poll_s), str(config["round"]))

    server_app = ServerApp()
    server_app.main()(main)
    return server_app


@dataclass
class Courier:
    """Carries files between a store and the nodes of a grid.

    Attributes:
        grid: Flower's.
        store: The coordinator's.
        poll_s: Seconds between two looks.
        pause_s: Seconds before a node that failed is asked again.
        sleep: Waits; another one in tests.
    """

    grid: Any
    store: SiteStore
    poll_s: float = 2.0
    pause_s: float = _PAUSE_S
    sleep: Callable[[float], None] = time.sleep
    _site_of: dict[int, str] = field(default_factory=dict)
    _not_before_s: dict[int, float] = field(default_factory=dict)
    _left_alone: set[str] = field(default_factory=set)

    def carry(self, round_key: str) -> None:
        """Bring a round to the sites until it is over, or nothing more is wanted of them.

        Raises:
            UnknownKeyError: If the round has no plan.
        """
        plan = read_round_plan(self.store, round_key)
        if plan.aggregation.secure:
            if round_key in self._left_alone:
                return
            self._left_alone.add(round_key)
            log.warning(
                "%s: found secure aggregation, expected none: its phases need a common store. Plan the round "
                "without it, or give the sites one.",
                round_key,
            )
            return
        asked: dict[str, tuple[int, str]] = {}  # message to node and step
        contents: dict[str, dict[str, bytes]] = {}
        while not _is_done(plan, standing := standing_of(self.store, round_key)):
            for step, sites in self._wanted(plan, standing).items():
                if step not in contents:
                    contents[step] = files_for(self.store, plan, step)
                nodes = self._free_nodes(sites, {node for node, _ in asked.values()})
                message_ids = self._ask(plan, step, contents[step], sites, nodes)
                asked |= {each: (node, step) for each, node in zip(message_ids, nodes, strict=True)}
            for reply in self.grid.pull_messages(list(asked)):
                node, step = asked.pop(reply.metadata.reply_to_message_id)
                if not self._take(plan, step, reply, node):
                    self._not_before_s[node] = time.monotonic() + self.pause_s
            self.sleep(self.poll_s)

    def _wanted(self, plan: RoundPlan, standing: RoundStanding) -> dict[str, list[str]]:
        """By step, the sites whose answer is lacking and would still count."""
        wanted: dict[str, list[str]] = {}
        if standing.adapter_at is not None:
            wanted[SCORES_STEP] = [site for site in plan.sites if site not in standing.scores]
        is_late = (
            datetime.now(UTC) >= deadline(plan)
            or read_participants(self.store, plan.round) is not None
        )
        if not is_late or plan.terms.max_staleness:
            wanted[DELTA_STEP] = [site for site in plan.sites if site not in standing.deltas]
        return {step: sites for step, sites in wanted.items() if sites}

    def _free_nodes(self, wanted: list[str], busy: Collection[int]) -> list[int]:
        """Nodes to ask now: connected, not asked already, and of a site that is wanted or not known yet."""
        now_s = time.monotonic()
        return [
            node
            for node in sorted(self.grid.get_node_ids())
            if node not in busy
            and now_s >= self._not_before_s.get(node, 0.0)
            and self._site_of.get(node, wanted[0]) in wanted
        ]

    def _ask(
        self,
        plan: RoundPlan,
        step: str,
        files: Mapping[str, bytes],
        wanted: list[str],
        nodes: list[int],
    ) -> list[str]:
        """Send the files to nodes; ids of the messages."""
        if not nodes:
            return []
        from flwr.app import Message

        limit_s = plan.terms.deadline_s if step == DELTA_STEP else plan.terms.scores_deadline_s
        content = packed(files, {"round": plan.round, "step": step, "sites": wanted})
        messages = [
            Message(
                content=content,
                dst_node_id=node,
                message_type=_MESSAGE_TYPES[step],
                ttl=max(limit_s, _LEAST_TTL_S),
                group_id=plan.round,
            )
            for node in nodes
        ]
        log.info("%s: asking %d nodes for %s of %s", plan.round, len(nodes), step, wanted)
        return list(self.grid.push_messages(messages))

    def _take(self, plan: RoundPlan, step: str, reply: Any, node: int) -> bool:
        """Put an answer into the store; whether the node need not be asked again soon."""
        if reply.has_error():
            log.warning("%s: node %d failed: %s", plan.round, node, reply.error.reason)
            return False
        try:
            files, facts = unpacked(reply.content)
            site = str(facts.get("site", ""))
            self._site_of[node] = site
            if facts.get("failed"):
                log.warning("%s: %s failed at %s; its node's log says why", plan.round, step, site)
                return False
            if accept(self.store, plan, site, step, files):
                log.info("%s: %s of %s is there", plan.round, step, site)
                return True
        except WorldloopError as error:
            log.warning("%s: the answer of node %d was refused: %s", plan.round, node, error)
        return False


def serve(courier: Courier, only: str = "") -> None:
    """Carry rounds; what a store refuses for a while is tried again.

    Args:
        courier: Who carries.
        only: Carry this round and end; empty: every open round, for ever.

    Raises:
        UnknownKeyError: If the one round has no plan.
    """
    while True:
        try:
            for key in [only] if only else open_rounds(courier.store):
                courier.carry(key)
            if only:
                return
        except UnknownKeyError:
            raise
        except WorldloopError as error:
            log.warning("%s Again in %g s.", error, courier.pause_s)
            courier.sleep(courier.pause_s)
        courier.sleep(courier.poll_s)


def _is_done(plan: RoundPlan, standing: RoundStanding) -> bool:
    """Whether no answer of any site counts any more."""
    if standing.ended_at is not None or standing.evaluated_at is not None:
        return True
    if standing.adapter_at is None:
        return False
    scored = set(plan.sites) <= set(standing.scores)
    until = standing.adapter_at + timedelta(seconds=plan.terms.scores_deadline_s)
    return scored or datetime.now(UTC) >= until


def _speak() -> None:
    """Flower keeps what an app says on stderr with its run: `flwr log`."""
    ours, handler = logging.getLogger(__name__), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    ours.propagate = False


app = build_app()
