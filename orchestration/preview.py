"""One clip of one place without planning a wave: the quickest look at a world."""

import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gpu_jobs.render_clips.spec import RenderClipsSpec
from worldloop.atlas.atlas import load_atlas
from worldloop.errors import JobFailedError
from worldloop.recipes import Recipe, Shape
from worldloop.scenes.casting import cast_scene


def render_preview(place: str, *, seed: int, shape: Shape, output: Path) -> Recipe:
    """Render one clip and write its mp4.

    Args:
        place: City and institution, `tokyo/zoo`.
        seed: Seed of the scene.
        shape: Shape of the clip.
        output: The mp4; replaced only when the clip is complete.

    Returns:
        The recipe that was rendered.

    Raises:
        UnknownKeyError: If the place is not in the atlas.
        MalformedRecordError: If no grammar builds it, or the shape cannot be.
        JobFailedError: If the job did not make the clip.
    """
    recipe = Recipe(cast_scene(load_atlas(), place=place, seed=seed, sketch=True), shape)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="worldloop-preview-") as folder:
        scratch = Path(folder)
        spec = RenderClipsSpec(
            recipes=(recipe.to_record(),),
            staging_dir=str(scratch / "staging"),
            pack_path=str(scratch / "pack.tar"),
            max_failed_share=1.0,
        )
        report = run_by_hand("render_clips", asdict(spec), scratch)
        if report["failures"]:
            failure = report["failures"][0]
            raise JobFailedError(
                f"No clip of {place} with seed {seed}: {failure['stage']}: {failure['reason']}. "
                "Try another seed."
            )
        clip = report["clips"][0]
        video = next(m for m in clip["members"] if m["name"].endswith(".rgb.mp4"))
        with Path(spec.pack_path).open("rb") as pack:
            pack.seek(video["offset"])
            content = pack.read(video["size_bytes"])
    part = output.with_name(output.name + ".part")
    part.write_bytes(content)
    part.replace(output)
    return recipe


def run_by_hand(job: str, spec: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """Run a job without Dagster and read the report that it prints.

    Raises:
        JobFailedError: If the job ends with an error; its last words are in the message.
    """
    path = scratch / "spec.json"
    path.write_text(json.dumps(spec))
    done = subprocess.run(
        [sys.executable, "-m", f"gpu_jobs.{job}.job", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        words = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise JobFailedError(f"gpu_jobs.{job} ended with exit code {done.returncode}: {words}")
    report: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return report
