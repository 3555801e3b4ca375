"""A stand-in for the job `cosmos_generate`: it answers as spec.py says, in milliseconds, without torch."""

import io
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image
from pydantic import Field

from resources.job_launcher import JobLauncher
from worldloop.packs import content_sha256, write_pack
from worldloop.seeds import stream


class StandInLauncher(JobLauncher):
    """Runs every job but `cosmos_generate`, of which it keeps the specs and makes noise.

    Attributes:
        blocked: Indices among the requests that a guard stops.
        failed: Indices among the requests that fail.
        guardrail: Effective state of every clip.
    """

    blocked: list[int] = Field(default_factory=list)
    failed: list[int] = Field(default_factory=list)
    guardrail: str = "unguarded"

    def run(self, job, spec, *, context, timeout_s, num_processes=1):
        if job != "cosmos_generate":
            return super().run(job, spec, context=context, timeout_s=timeout_s)
        SPECS.append(spec)
        return self._report(spec)

    def _report(self, spec) -> dict[str, Any]:
        stopped = {*self.blocked, *self.failed}
        made = [r for i, r in enumerate(spec.requests) if i not in stopped]
        folders = [(r["clip_id"], write_noise(Path(spec.staging_dir), r, spec.shape)) for r in made]
        members = write_pack(Path(spec.pack_path), folders) if made else []
        ids = {i: _ids(r) for i, r in enumerate(spec.requests)}
        return {
            "clips": [_clip(r, spec.shape, members) for r in made],
            "failures": [
                ids[i] | {"stage": "denoise", "reason": "NaN frames"} for i in self.failed
            ],
            "blocked": [
                ids[i] | {"guard": "blocklist", "category": "violence", "reason": "a word"}
                for i in self.blocked
            ],
            "receipts": [_receipt(r) | {"guardrail": self.guardrail} for r in made],
            "generations": [
                {
                    "recipe_id": r["clip_id"],
                    "upsampled_prompt": "",
                    "negative_prompt": r["negative_prompt"],
                    "guardrail": self.guardrail,
                    "more": "is ignored",
                }
                for r in made
            ],
            "versions": {"torch": "2.13.0", "gpu": "NVIDIA H200"},
            "recoveries": [],
        }


SPECS: list[Any] = []


def write_noise(staging: Path, request: dict[str, Any], shape: dict[str, int]) -> Path:
    """A clip whose blocks move, different for every seed."""
    folder = staging / request["clip_id"]
    folder.mkdir(parents=True, exist_ok=True)
    size = (min(shape["width_px"], 64), min(shape["height_px"], 64))
    blocks = stream(request["seed"], "noise").integers(0, 255, (8, 8, 3), np.uint8)
    picture = np.asarray(Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST))
    sink = io.BytesIO()
    with av.open(sink, "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=shape["rate_fps"])
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        for frame in range(min(shape["num_frames"], 9)):
            moved = np.roll(picture, 2 * frame, axis=1)
            container.mux(video.encode(av.VideoFrame.from_ndarray(moved, format="rgb24")))
        container.mux(video.encode())
    (folder / "rgb.mp4").write_bytes(sink.getvalue())
    Image.fromarray(picture).save(folder / "poster.jpg")
    return folder


def _ids(request: dict[str, Any]) -> dict[str, str]:
    return {"recipe_id": request["clip_id"], "scene_id": request["scene_id"]}


def _clip(request: dict[str, Any], shape: dict[str, int], members: list[Any]) -> dict[str, Any]:
    files = [m for m in members if m.clip_id == request["clip_id"]]
    return {
        **_ids(request),
        **shape,
        "duration_s": shape["num_frames"] / shape["rate_fps"],
        "content_sha256": content_sha256({m.file_name: m.sha256 for m in files}),
        "size_bytes": sum(m.size_bytes for m in files),
        "members": [
            {
                "name": m.name,
                "offset": m.offset,
                "size_bytes": m.size_bytes,
                "sha256": m.sha256,
            }
            for m in files
        ],
    }


def _receipt(request: dict[str, Any]) -> dict[str, Any]:
    return {
        "recipe_id": request["clip_id"],
        "cpu_s": 1.0,
        "gpu_s": 36.0,
        "peak_rss_mb": 500.0,
        "resumed": False,
        "ms_per_step": 515.0,
        "tflops": 600.0,
        "peak_gpu_gb": 5.0,
        "busy_share": 0.97,
    }
