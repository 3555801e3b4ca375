"""Site deltas: each site trains on its own clips of a round and sends what training changed.

Nothing of the footage leaves the site: the delta goes through the outbox, and what Dagster is shown of it
are numbers and ids.
"""

import hashlib
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg

from assets.partitions import site_by_round, split_site_round
from gpu_jobs.posttrain.spec import TRAIN, PosttrainSpec
from resources.failpoints import reached
from resources.federation import Federation
from resources.kept_deltas import keep_delta, read_kept_delta
from resources.moments import carried_moments, keep_moments
from resources.outbox import Outbox
from resources.residuals import carried_residual, keep_residual
from resources.round_deltas import start_of
from resources.round_files import read_outcome, read_participants, read_round_plan
from resources.secure_rounds import (
    coordinator_turn,
    forget_ended,
    missed_phase,
    read_standing,
    site_turn,
)
from resources.site_footage import SiteFootage, StagedFootage
from resources.site_keys import SiteKeys
from resources.site_store import SiteStore
from resources.staging import Staging
from resources.trainers import Trainers
from resources.world_models import WorldModels
from worldloop.federation.adapters import (
    Arrays,
    adapter_bytes,
    check_alike,
    difference,
    norm,
    read_adapter,
)
from worldloop.federation.codecs import Encoded, decode, encode
from worldloop.federation.envelopes import (
    MASKED_CODEC,
    DeltaHeader,
    read_header,
    read_record,
    seal,
    sign_record,
)
from worldloop.federation.masking import DONE
from worldloop.federation.outbox import DELTA, RECEIPT, facts
from worldloop.federation.privacy import privatised
from worldloop.federation.rounds import RoundPlan
from worldloop.plots import readable, small_curves

_NOT_ASKED = "The round does not ask this site."
_OVER = "The round went on without this site's delta; a later one would not count."
_COMMON = "its store is the coordinator's own, in which nothing may lie that tells of a single masked delta."
_MISSED = "The round missed this site in phase {} of its secure aggregation and went on without it; it takes part in the next round."
_TRAINED, _STATE = "trained", "state"  # folders of a training in the site's scratch
_MOMENTS = "moments.safetensors"  # where the optimizer stands, there or beside them
_TELLING = ("num_clips", "num_windows", "payload_sha256", "size_bytes", "relative_error")
_MAX_POINTS = 200  # of the loss curve that is sent
_TOLD_EVERY_S = 10.0
_MIN_TIMEOUT_S = 60.0
_REPORTED = (
    "num_windows",
    "num_parameters",
    "tokens_per_s",
    "tflops",
    "load_s",
    "encode_s",
    "train_s",
    "wall_s",
    "peak_gpu_gb",
    "resumed_at",
)


def build_site_delta(sites: Iterable[str]) -> dg.AssetsDefinition:
    """The asset, partitioned by the sites of the sites file and by round."""

    @dg.asset(
        name="site_delta",
        description=_DESCRIPTION,
        group_name="federation",
        kinds={"pytorch"},
        partitions_def=site_by_round(sites),
        deps=[
            dg.AssetDep(
                "round_plan", partition_mapping=dg.MultiToSingleDimensionPartitionMapping("round")
            )
        ],
        pool="gpu",
        code_version="1",
        retry_policy=dg.RetryPolicy(max_retries=1, delay=3),
    )
    def site_delta(
        context: dg.AssetExecutionContext,
        store: SiteStore,
        federation: Federation,
        staging: Staging,
        trainers: Trainers,
        world_models: WorldModels,
    ) -> dg.MaterializeResult[None]:
        site, round_key = split_site_round(context.partition_key)
        plan, outbox = read_round_plan(store, round_key), Outbox(store)
        if site not in plan.sites:
            return dg.MaterializeResult(metadata={"note": _NOT_ASKED})
        with staging.lock(round_key, site, "site_delta"):
            site_at_work = _SiteAtWork(
                context, store, federation, staging, trainers, world_models, plan, site
            )
            note = site_at_work.do_what_is_due(outbox)
            if note or outbox.sent(round_key, site, DELTA) is not None:
                staging.clear(round_key, site)  # footage stays, what training left goes
        if note:
            return dg.MaterializeResult(metadata={"note": note})
        return dg.MaterializeResult(metadata=_describe(outbox, plan, site))

    return site_delta


_DESCRIPTION = """What one site's training changed in a round, signed and sent through the outbox.

The site trains on its own accepted clips of the round's waves, without held-out cities. A delta that stands
is not made again; a killed run goes on at its step. A site without clips says so, and the round goes on. What
the codec loses stays at the site, written before the delta is sent: the sending is the commit. In a secure
round the same partition runs once a phase, and the delta is masked. Formats: docs/formats.md#delta, #receipt
and #secure-rounds.
"""


@dg.op(pool="cpu", retry_policy=dg.RetryPolicy(max_retries=1, delay=3), out=dg.Out(dg.Nothing))
def secure_phase(
    context: dg.OpExecutionContext,
    store: SiteStore,
    federation: Federation,
    staging: Staging,
    trainers: Trainers,
    world_models: WorldModels,
) -> None:
    """What a phase of a secure round after the first asks of a site: messages and a mask, no training.

    The same as a run of `site_delta` in that phase, but it waits for no GPU. Of a site whose part an agent
    carries it does nothing; it ends a phase that is late.
    """
    site, round_key = split_site_round(context.partition_key)
    plan, outbox = read_round_plan(store, round_key), Outbox(store)
    if federation.site(site).agent:
        coordinator_turn(outbox, plan, now=datetime.now(UTC))
        return
    with staging.lock(round_key, site, "site_delta"):
        kit = (context, store, federation, staging, trainers, world_models, plan, site)
        note = _SiteAtWork(*kit, may_train=False).do_what_is_due(outbox)
        if note or outbox.sent(round_key, site, DELTA) is not None:
            staging.clear(round_key, site)
    metadata = {"note": note} if note else _describe(outbox, plan, site)
    context.log_event(
        dg.AssetMaterialization("site_delta", partition=context.partition_key, metadata=metadata)
    )


@dataclass(frozen=True)
class _SiteAtWork:
    """Everything that one site needs to make its delta."""

    context: dg.AssetExecutionContext | dg.OpExecutionContext
    store: SiteStore
    federation: Federation
    staging: Staging
    trainers: Trainers
    world_models: WorldModels
    plan: RoundPlan
    site: str
    may_train: bool = True

    def do_what_is_due(self, outbox: Outbox) -> str:
        """Send what can be sent now; answers with why nothing is, in words, else with nothing."""
        plan, site = self.plan, self.site
        for other, ended in forget_ended(SiteKeys(self.federation.home), self.store):
            self.staging.clear(ended, other)
        stands = outbox.sent(plan.round, site, DELTA) is not None
        if _is_too_late(self.store, plan):
            return "" if stands else _OVER
        if plan.aggregation.secure:
            return self._take_turns(outbox)
        if stands:
            self.context.log.info("The delta of %s in %s stands already", site, plan.round)
        else:
            self._send(outbox)
        return ""

    def _take_turns(self, outbox: Outbox) -> str:
        """The site's and the coordinator's part of a secure round, as far as both can go now."""
        plan, site = self.plan, self.site
        keys = SiteKeys(self.federation.home)
        header, delta = self._masked_before(outbox)
        if header is None and not missed_phase(outbox, plan, site):
            header, delta = self._train_to_mask(outbox)
        is_out = header is None or not header.is_empty
        if is_out and (phase := missed_phase(outbox, plan, site)):
            return _MISSED.format(phase)
        assert header is not None
        by_agent = self.federation.site(site).agent
        while True:
            phase = site_turn(outbox, keys, plan, header, lambda: delta, keep=self._keep)
            reached("site_delta.sent")
            # an agent's clock may be wrong: what is late is for the graph's runs to say
            now = None if by_agent else datetime.now(UTC)
            standing = coordinator_turn(outbox, plan, now=now)
            if standing.problem:
                self.context.log.warning(standing.problem)
            if phase == DONE or standing.phase == phase:
                return ""

    def _masked_before(self, outbox: Outbox) -> tuple[DeltaHeader | None, Arrays]:
        """Header and delta of an earlier phase; of a masked delta that was sent, the header is enough."""
        sent = outbox.sent(self.plan.round, self.site, DELTA)
        if sent is not None:
            return read_header(sent), {}
        folder = self.staging.folder(self.plan.round, self.site)
        return read_kept_delta(folder, self.plan) or (None, {})

    def _train_to_mask(self, outbox: Outbox) -> tuple[DeltaHeader, Arrays]:
        """Train, and keep what is to be masked until it was sent: noise must not be drawn twice."""
        if not self.may_train:
            raise dg.Failure(
                f"The delta of {self.site} in {self.plan.round} is not on this machine's disk; expected it since "
                "phase 1. Materialise `site_delta` of this partition: it trains again and goes on.",
                allow_retries=False,
            )
        report, trained = self._train()
        reached("site_delta.trained")
        delta, residual = self._protected(trained) if trained else ({}, None)
        delta = _added(delta, residual) if residual else delta
        header = _header(self.plan, self.site, report, 0.0)
        private_key = SiteKeys(self.federation.home).private_key(self.site)
        receipt = sign_record(_masked_receipt(header, report), private_key)
        outbox.send(self.plan.round, self.site, RECEIPT, receipt, replace=True)
        folder = self.staging.folder(self.plan.round, self.site)
        if trained and self.plan.training.keep_optimizer:
            (folder / _TRAINED / _MOMENTS).chmod(0o600)
            (folder / _TRAINED / _MOMENTS).replace(folder / _MOMENTS)
        keep_delta(folder, header, delta)
        for name in (_TRAINED, _STATE):
            shutil.rmtree(folder / name, ignore_errors=True)
        return header, delta

    def _keep(self, content: bytes, lost: Arrays) -> None:
        """What fixed point lost of the delta, before the delta is sent."""
        asked, own = self.plan.aggregation, self.federation.store(self.site)
        keep_residual(own, self.plan.round, content, lost if asked.error_feedback else None)
        if own.url == self.store.url and self.plan.training.keep_optimizer:
            self.context.log.info("The optimizer of %s is not kept: %s", self.site, _COMMON)
        else:
            self._keep_moments(content, _MOMENTS)
        reached("site_delta.before_send")

    def _keep_moments(self, content: bytes, name: str) -> None:
        """Where the optimizer stands, before the delta is sent."""
        plan = self.plan
        if plan.training.keep_optimizer:
            path = self.staging.folder(plan.round, self.site) / name
            keep_moments(self.federation.store(self.site), plan, content, path)
            reached("site_delta.moments_kept")

    def _send(self, outbox: Outbox) -> None:
        """Make the delta and send it: receipt and residual first, as the delta commits both."""
        plan, site = self.plan, self.site
        keys = SiteKeys(self.federation.home)
        keys.publish(self.store, site)
        private_key = keys.private_key(site)
        report, trained = self._train()
        reached("site_delta.trained")
        encoded, length = self._encode(trained) if trained else (None, 0.0)
        header = _header(plan, site, report, length)
        content = seal(encoded.content if encoded else b"", header, private_key)
        receipt = sign_record(_receipt(header, report, encoded, content), private_key)
        outbox.send(plan.round, site, RECEIPT, receipt, replace=True)
        own = self.federation.store(site)
        keep_residual(own, plan.round, content, encoded.residual if encoded else None)
        self._keep_moments(content, f"{_TRAINED}/{_MOMENTS}")
        reached("site_delta.before_send")
        outbox.send(plan.round, site, DELTA, content)
        reached("site_delta.sent")

    def _train(self) -> tuple[Mapping[str, Any], Arrays]:
        """Report and delta; nothing of it if there is nothing to train on."""
        footage = SiteFootage(
            self.federation, self.site, footage_folder(self.federation, self.site)
        )
        with footage.in_use(self.context.log.info):
            report = self._report(footage)
        if not report.get("output_dir"):  # no clips, or they are shorter than a window
            return {}, {}
        trained = Path(report["output_dir"])
        end, start = (
            read_adapter(trained / f"{name}.safetensors") for name in ("adapter", "start")
        )
        return report, difference(end, start)

    def _report(self, footage: SiteFootage) -> Mapping[str, Any]:
        """What the trainer says of its work on the round's clips; empty if there are none."""
        plan = self.plan
        staged = footage.stage_train(
            plan.waves,
            held_out_cities=plan.trial.held_out_cities,
            max_clips=plan.training.max_clips,
        )
        self.context.log.info("%d clips to train on at %s", staged.num_clips, self.site)
        if not staged.num_clips:
            return {}
        return self.trainers.run(
            self.site,
            TRAIN,
            self._spec(staged, self.staging.folder(plan.round, self.site)),
            timeout_s=max(plan.terms.deadline_s, _MIN_TIMEOUT_S),
            on_event=_Teller(self.context),
        )

    def _spec(self, footage: StagedFootage, folder: Path) -> PosttrainSpec:
        plan, machine = self.plan, self.world_models
        start_adapter = lay_out_base(self.store, plan, folder)
        return PosttrainSpec(
            model=plan.base.model,
            revision=plan.base.revision,
            checkpoint_dir=machine.checkpoint_dir,
            footage_dir=str(footage.folder),
            output_dir=str(folder / _TRAINED),
            training=asdict(plan.training),
            seed=plan.seed,
            site=self.site,
            start_adapter=start_adapter,
            start_moments=self._lay_out_moments(start_adapter, folder),
            transformer_dir=plan.base.checkpoint,
            cache_dir=str(footage.cache_dir),
            state_dir=str(folder / _STATE),
            exclude_cities=plan.trial.held_out_cities,
            device=machine.device,
        )

    def _lay_out_moments(self, start_adapter: str, folder: Path) -> str:
        """Where the optimizer goes on from as a local file; empty if it begins anew."""
        if not (start_adapter and self.plan.training.keep_optimizer):
            return ""
        own, adapter = self.federation.store(self.site), read_adapter(Path(start_adapter))
        found, why = carried_moments(own, self.store, self.plan, self.site, adapter=adapter)
        if why:
            self.context.log.warning("%s begins its optimizer anew: %s", self.site, why)
        if found is None:
            return ""
        path = folder / f"start-{_MOMENTS}"
        path.write_bytes(adapter_bytes(found))
        return str(path)

    def _encode(self, trained: Arrays) -> tuple[Encoded, float]:
        """The delta as it is sent: with what was lost before, limited and noised if planned; and its length."""
        asked = self.plan.aggregation
        delta, residual = self._protected(trained)
        encoded = encode(delta, asked.codec, residual=residual, error_feedback=asked.error_feedback)
        return encoded, norm(decode(encoded.content))

    def _protected(self, delta: Arrays) -> tuple[Arrays, Arrays | None]:
        """The delta, limited and noised if planned, and what was lost before that is still to be added.

        With noise that is added first, so that what is lost afterwards is protected as well.
        """
        asked = self.plan.aggregation
        residual = None
        if asked.error_feedback:
            own = self.federation.store(self.site)
            residual = carried_residual(own, self.store, self.plan, self.site)
        if asked.clip_norm > 0:
            delta = privatised(
                _added(delta, residual) if residual else delta,
                clip_norm=asked.clip_norm,
                noise_multiplier=asked.noise_multiplier,
            )
            residual = None
        return delta, residual


def _added(delta: Arrays, residual: Arrays) -> Arrays:
    check_alike(residual, delta)
    return {name: delta[name] + residual[name] for name in delta}


class _Teller:
    """Shows the step and the loss in Dagster now and then; nothing else of what a trainer tells."""

    def __init__(self, context: dg.AssetExecutionContext | dg.OpExecutionContext):
        self.context, self.told_s = context, time.monotonic()

    def __call__(self, event: Mapping[str, Any]) -> None:
        now_s = time.monotonic()
        if event.get("event") == "step" and now_s - self.told_s >= _TOLD_EVERY_S:
            self.told_s = now_s
            step, of, loss = int(event["step"]), int(event["of"]), float(event["loss"])
            self.context.log.info("step %d of %d, loss %.4g", step, of, loss)


def footage_folder(federation: Federation, site: str) -> Path:
    """Where a site's clips lie as folders to train on; of this machine, kept over rounds."""
    return Path(federation.home) / "training" / site


def lay_out_base(store: SiteStore, plan: RoundPlan, folder: Path) -> str:
    """The adapter that a round goes on from as a local file; empty without one.

    Raises:
        MalformedRecordError: If it is not the one that the plan names.
    """
    if not plan.base.adapter:
        return ""
    path = folder / "base.safetensors"
    path.write_bytes(adapter_bytes(start_of(store, plan, None)))
    return str(path)


def _header(plan: RoundPlan, site: str, report: Mapping[str, Any], length: float) -> DeltaHeader:
    """What is said of a delta; without a report, that there is nothing to train on."""
    return DeltaHeader(
        round=plan.round,
        site=site,
        plan_id=plan.plan_id,
        base=plan.base.adapter,
        start_sha256=report.get("start_sha256", ""),
        codec=plan.aggregation.codec,
        num_clips=int(report.get("num_clips", 0)),
        num_steps=int(report.get("num_steps", 0)),
        norm=length,
        loss_before=float(report.get("loss_before", 0.0)),
        loss_after=float(report.get("loss_after", 0.0)),
        took_s=float(report.get("wall_s", 0.0)),
        gpu_s=float(report.get("gpu_s", 0.0)),
    )


def _receipt(
    header: DeltaHeader, report: Mapping[str, Any], encoded: Encoded | None, content: bytes
) -> dict[str, Any]:
    """`receipt.json`: how training went, for what is shown; the delta itself does not rest on it."""
    points = report.get("losses", [])
    every = -(-len(points) // _MAX_POINTS) or 1
    return {
        "round": header.round,
        "site": header.site,
        "plan_id": header.plan_id,
        "version": 1,
        "status": "empty" if header.is_empty else "trained",
        "codec": header.codec,
        "start_sha256": header.start_sha256,
        "payload_sha256": hashlib.sha256(encoded.content if encoded else b"").hexdigest(),
        "size_bytes": len(content),
        "relative_error": encoded.relative_error if encoded else 0.0,
        "num_clips": header.num_clips,
        "num_steps": header.num_steps,
        "losses": [{"step": int(p["step"]), "loss": float(p["loss"])} for p in points[::every]],
        **{name: report[name] for name in _REPORTED if name in report},
    }


def _masked_receipt(header: DeltaHeader, report: Mapping[str, Any]) -> dict[str, Any]:
    """The receipt of a secure round: without what tells of the single delta or of the site's weight."""
    record = _receipt(header, report, None, b"")
    kept = {name: value for name, value in record.items() if name not in _TELLING}
    return {**kept, "codec": MASKED_CODEC}


def _is_too_late(store: SiteStore, plan: RoundPlan) -> bool:
    """Whether nothing will ever take a delta of this round; a masked one counts in its own round alone."""
    decided = read_participants(store, plan.round) is not None
    over = read_outcome(store, plan.round) is not None
    may_be_late = plan.terms.max_staleness and not plan.aggregation.secure
    return (decided or over) and not may_be_late


def _describe(outbox: Outbox, plan: RoundPlan, site: str) -> dict[str, Any]:
    """Numbers and ids of what the site has sent so far, and its curve."""
    content = outbox.sent(plan.round, site, DELTA)
    receipt_file = outbox.sent(plan.round, site, RECEIPT)
    receipt = read_record(receipt_file, what=RECEIPT) if receipt_file else {}
    told: dict[str, Any] = {"round": plan.round, "site": site, "status": "waiting"}
    if content is not None:
        told |= _facts_of(read_header(content), content)
    if plan.aggregation.secure:
        standing = read_standing(outbox, plan)
        told |= {"phase": standing.phase, "num_sites_waited_for": len(standing.waits_for)}
    told |= {name: receipt[name] for name in (*_REPORTED, "relative_error") if name in receipt}
    shown = facts({k: readable(v) if isinstance(v, float) else v for k, v in told.items()})
    points = receipt.get("losses", [])
    if points:
        under = f"step {points[0]['step']} to {points[-1]['step']}"
        curve = small_curves({"loss": [p["loss"] for p in points]}, under=under, alt="loss by step")
        shown = {"loss_curve": dg.MetadataValue.md(curve), **shown}
    return shown


def _facts_of(header: DeltaHeader, content: bytes) -> dict[str, Any]:
    """What may be shown of a delta; of a masked one neither length nor weight is known."""
    shown = {
        "status": "empty" if header.is_empty else "trained",
        "codec": header.codec,
        "num_steps": header.num_steps,
        "size_bytes": len(content),
        "loss_before": header.loss_before,
        "loss_after": header.loss_after,
        "took_s": header.took_s,
        "gpu_s": header.gpu_s,
        "content_sha256": hashlib.sha256(content).hexdigest(),
    }
    return shown if header.masked else {**shown, "num_clips": header.num_clips, "norm": header.norm}
