"""What was asked of a job and what became of it: the staging folder is the truth, the report its copy.

A finished clip stands in `<staging>/<clip_id>/`, with its receipt in a dot file that stays out of
packs; a blocked one leaves `<clip_id>.blocked.json`. Failures are not kept: they are tried again.
"""

import json
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

from gpu_jobs.common.processes import num_processes
from gpu_jobs.common.staged_clips import clip_rows, is_whole
from gpu_jobs.cosmos_generate.output import save_clip
from gpu_jobs.cosmos_generate.spec import CosmosGenerateReport, CosmosGenerateSpec
from worldloop.cosmos.asking import check_extension, check_request
from worldloop.cosmos.families import FAMILIES, ClipShape, Family
from worldloop.cosmos.models import Model, model
from worldloop.cosmos.profiles import SpeedProfile
from worldloop.cosmos.requests import ClipRequest
from worldloop.errors import ClipRejectedError, JobFailedError, WorldloopError
from worldloop.packs import write_pack

RECEIPT_NAME = ".receipt.json"
VERSIONED = ("torch", "diffusers", "transformers", "av", "numpy", "worldloop")

log = logging.getLogger(__name__)

OnClip = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Stopped:
    """A clip that will not be generated.

    Attributes:
        request: As it was asked for.
        stage: Where it stopped.
        reason: Why.
        guard: The guard that blocked it; empty if it failed.
        category: What the guard saw.
    """

    request: ClipRequest
    stage: str
    reason: str
    guard: str = ""
    category: str = ""

    @property
    def blocked(self) -> bool:
        """Whether a guard stopped it, which is a result and not a failure."""
        return bool(self.guard)


def stopped_by(request: ClipRequest, stage: str, error: BaseException) -> Stopped:
    """A clip that an error stopped."""
    if isinstance(error, ClipRejectedError):
        return Stopped(request, error.stage, error.reason)
    reason = str(error) if isinstance(error, WorldloopError) else f"{type(error).__name__}: {error}"
    return Stopped(request, stage, reason)


@dataclass(frozen=True)
class Asked:
    """A spec, read and checked.

    Attributes:
        spec: As it came.
        model: The model.
        family: Its family.
        shape: Of every clip.
        profile: How denoising is computed.
        requests: The clips, in order.
    """

    spec: CosmosGenerateSpec
    model: Model
    family: Family
    shape: ClipShape
    profile: SpeedProfile
    requests: tuple[ClipRequest, ...]

    @classmethod
    def read(cls, spec: CosmosGenerateSpec) -> Self:
        """Read a spec.

        Raises:
            UnknownKeyError: If the model is unknown.
            MalformedRecordError: If a record does not follow its format, or asks for the impossible.
        """
        known = model(spec.model)
        asked = cls(
            spec,
            known,
            FAMILIES[known.family],
            ClipShape(**spec.shape),
            SpeedProfile.from_record(spec.profile),
            tuple(ClipRequest.from_record(record) for record in spec.requests),
        )
        check_extension(
            model=known,
            shape=asked.shape,
            extend_to_frames=spec.extend_to_frames,
            overlap_frames=spec.overlap_frames,
        )
        for request in asked.requests:
            asked.check(request)
        return asked

    def check(self, request: ClipRequest) -> None:
        """Refuse what the model cannot make, before anything is loaded.

        Raises:
            MalformedRecordError: If it cannot.
        """
        check_request(
            request,
            model=self.model,
            shape=self.shape,
            num_steps=self.num_steps,
            guidance=self.spec.guidance,
            sampler=self.spec.sampler,
            upsampler=self.spec.upsampler.get("mode", ""),
            cp_size=self.spec.cp_size,
            num_devices=num_processes(),
        )

    @property
    def staging(self) -> Path:
        """Where finished clips stand until the pack does."""
        return Path(self.spec.staging_dir)

    @property
    def num_steps(self) -> int:
        """Denoising steps; a distilled student knows its own."""
        return self.profile.num_steps or self.spec.num_steps


class Book:
    """Keeps what became of every clip, in the staging folder and for the report."""

    def __init__(self, asked: Asked, on_clip: OnClip | None) -> None:
        self.asked = asked
        self.failures: list[Stopped] = []
        self.recoveries: list[str] = []
        self.conditions: dict[str, str] = {}  # what else bytes depend on, beside versions
        self._on_clip = on_clip
        self._lock = threading.Lock()
        self._resumed = {r.clip_id for r in asked.requests if self.stands(r)}

    def stands(self, request: ClipRequest) -> bool:
        """Whether a clip is finished or was blocked."""
        return self._is_made(request) or self._blocked_path(request).exists()

    def noted_in(self, folder: Path, receipt: dict[str, Any]) -> dict[str, Any]:
        """Put what a clip took beside its files, in the folder that becomes whole with it."""
        (folder / RECEIPT_NAME).write_text(json.dumps(receipt), encoding="utf-8")
        return receipt

    def finished(self, request: ClipRequest, receipt: dict[str, Any]) -> None:
        """Tell that a clip stands, and what it took."""
        self._tell({"event": "clip_done", "recipe_id": request.clip_id, **receipt})

    def stopped(self, stop: Stopped) -> None:
        """Note a clip that was blocked or failed."""
        facts = {
            "recipe_id": stop.request.clip_id,
            "scene_id": stop.request.scene_id,
            "stage": stop.stage,
            "reason": stop.reason,
        }
        if stop.blocked:
            blocked = {k: facts[k] for k in ("recipe_id", "scene_id", "reason")}
            blocked |= {"guard": stop.guard, "category": stop.category}
            path = self._blocked_path(stop.request)
            part = path.with_suffix(".partial")
            part.write_text(json.dumps(blocked), encoding="utf-8")
            part.replace(path)
        else:
            self.failures.append(stop)
        event = "clip_blocked" if stop.blocked else "clip_failed"
        self._tell({"event": event, **facts, "guard": stop.guard, "category": stop.category})

    def close(self) -> CosmosGenerateReport:
        """Check the share of failures, write the pack and what is to be saved, and report.

        Raises:
            JobFailedError: If too many clips failed.
        """
        self._check_share()
        asked, spec = self.asked, self.asked.spec
        made = [r for r in asked.requests if self._is_made(r)]
        report = CosmosGenerateReport(
            clips=[],
            failures=[
                {
                    "recipe_id": s.request.clip_id,
                    "scene_id": s.request.scene_id,
                    "stage": s.stage,
                    "reason": s.reason,
                }
                for s in self.failures
            ],
            blocked=[
                json.loads(path.read_text(encoding="utf-8"))
                for r in asked.requests
                if (path := self._blocked_path(r)).exists()
            ],
            receipts=[self._receipt(r) for r in made],
            generations=[self._generation(r) for r in made],
            versions=versions() | self.conditions,
            recoveries=self.recoveries,
        )
        if spec.pack_path:
            clips = [(r.clip_id, asked.staging / r.clip_id) for r in made]
            members = write_pack(Path(spec.pack_path), clips)
            report.clips.extend(clip_rows([self._facts(r) for r in made], members))
        if spec.save_dir:
            for request in made:
                folder = asked.staging / request.clip_id
                save_clip(
                    folder,
                    Path(spec.save_dir),
                    name=request.clip_id,
                    prompt=record_of(folder)["upsampled_prompt"] or request.full_prompt,
                )
        return report

    def _facts(self, request: ClipRequest) -> dict[str, Any]:
        record = record_of(self.asked.staging / request.clip_id)
        num_frames, rate_fps = record["shape"]["num_frames"], self.asked.shape.rate_fps
        return {
            "recipe_id": request.clip_id,
            "scene_id": request.scene_id,
            "num_frames": num_frames,
            "width_px": self.asked.shape.width_px,
            "height_px": self.asked.shape.height_px,
            "rate_fps": rate_fps,
            "duration_s": num_frames / rate_fps,
        }

    def _is_made(self, request: ClipRequest) -> bool:
        """Whether a clip stands with its receipt; without one nobody knows what the guards said."""
        folder = self.asked.staging / request.clip_id
        return (folder / RECEIPT_NAME).exists() and is_whole(folder)

    def _receipt(self, request: ClipRequest) -> dict[str, Any]:
        path = self.asked.staging / request.clip_id / RECEIPT_NAME
        return {
            "recipe_id": request.clip_id,
            **json.loads(path.read_text(encoding="utf-8")),
            "resumed": request.clip_id in self._resumed,
        }

    def _generation(self, request: ClipRequest) -> dict[str, Any]:
        return {
            "recipe_id": request.clip_id,
            **record_of(self.asked.staging / request.clip_id),
            "guardrail": self._receipt(request).get("guardrail", ""),
        }

    def _blocked_path(self, request: ClipRequest) -> Path:
        return self.asked.staging / f"{request.clip_id}.blocked.json"

    def _tell(self, line: dict[str, Any]) -> None:
        with self._lock:
            log.info(json.dumps(line))
            if self._on_clip is not None:
                self._on_clip(line)

    def _check_share(self) -> None:
        failed, total = len(self.failures), len(self.asked.requests)
        if total and failed / total > self.asked.spec.max_failed_share:
            first = self.failures[0]
            raise JobFailedError(
                f"{failed} of {total} clips failed, at most {self.asked.spec.max_failed_share:.0%} may; "
                f"the first one, {first.request.clip_id}, at {first.stage}: {first.reason}. Finished "
                f"clips stay in {self.asked.spec.staging_dir!r}; correct the cause and run the job again."
            )


def record_of(folder: Path) -> dict[str, Any]:
    """The record that decided a finished clip's bytes."""
    record: dict[str, Any] = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    return record


def versions() -> dict[str, str]:
    """Versions of the packages that bytes depend on, and the name of the GPU."""
    import torch

    found = {}
    for name in VERSIONED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
        found["cuda"] = str(torch.version.cuda)
    return found
