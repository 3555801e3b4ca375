"""What `embed_clips` is asked and what it answers."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class EmbedClipsSpec:
    """Embed these clips and texts.

    Attributes:
        clips: One row per clip: `recipe_id`, `path` of a local file that holds its mp4 (a pack),
            `offset` and `size_bytes` of the mp4 in it.
        texts: Search queries.
        vectors_path: Local path of the parquet to write, one row per clip: `recipe_id`, `vector`;
            replaced atomically. Empty if there are no clips.
        model: Empty for the starter that ships with worldloop; a local folder that
            `train_embedder` wrote; or `hf-hub:<organisation>/<model>` of open_clip.
        revision: Commit of a hub model in the local Hugging Face cache.
        num_frames: Evenly spaced frames that make up a clip's vector.
        batch_size: Frames in one forward pass.
        max_failed_share: More failed clips than this share end the job with `JobFailedError`.
        device: `cpu` or `cuda:0`.
    """

    clips: tuple[dict[str, Any], ...] = ()
    texts: tuple[str, ...] = ()
    vectors_path: str = ""
    model: str = ""
    revision: str = ""
    num_frames: int = 8
    batch_size: int = 64
    max_failed_share: float = 0.25
    device: str = "cpu"


@dataclass(frozen=True)
class EmbedClipsReport:
    """What was embedded.

    Attributes:
        model_id: Name and hash of the weights, or name and revision; part of every vector's key.
        width: Numbers in a vector.
        num_clips: Rows in the vectors file.
        text_vectors: One vector per text, in the order of the texts.
        failures: One row per failed clip: recipe_id, stage, reason.
        cpu_s: CPU seconds of the whole job, imports included.
        versions: Versions that the numbers depend on (torch, open_clip, av).
    """

    model_id: str
    width: int
    num_clips: int
    text_vectors: list[list[float]] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)
    cpu_s: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)
