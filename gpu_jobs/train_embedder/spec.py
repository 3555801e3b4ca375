"""What `train_embedder` is asked and what it answers."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class TrainEmbedderSpec:
    """Train an embedding model from nothing.

    Attributes:
        shards_dir: Folder of frame shards (`gpu_jobs.train_embedder.shards`).
        output_dir: Where the model folder is written.
        name: First part of the model's id.
        model_cfg: open_clip's model configuration.
        preprocess_cfg: How frames become pixels, see `gpu_jobs.embed_clips.model`.
        holdout_dir: Shards of other cities and seeds, evaluated at the end; empty for none.
        num_steps: Optimizer steps.
        batch_size: Scenes in a step, one frame and one caption of each.
        learning_rate: Peak of a cosine with a linear warm-up.
        warmup_steps: Length of the warm-up.
        weight_decay: Of matrices; vectors and biases have none.
        unknown_share: Share of caption tokens replaced by the unknown word.
        seed: Of weights, order and augmentation.
        precision: `bf16` or `fp32`.
        device: `cpu` or `cuda:0`.
    """

    shards_dir: str
    output_dir: str
    name: str
    model_cfg: dict[str, Any]
    preprocess_cfg: dict[str, Any]
    holdout_dir: str = ""
    num_steps: int = 6000
    batch_size: int = 1024
    learning_rate: float = 1e-3
    warmup_steps: int = 300
    weight_decay: float = 0.1
    unknown_share: float = 0.03
    seed: int = 0
    precision: str = "bf16"
    device: str = "cuda:0"


@dataclass(frozen=True)
class TrainEmbedderReport:
    """What was trained.

    Attributes:
        model_id: Name and hash of the weights.
        loss: Mean contrastive loss of the last tenth of the steps.
        num_parameters: Of the network, the token table left out.
        size_bytes: Of the model folder.
        wall_s: Seconds of training.
        holdout: Rows of `evaluate.evaluate`; empty without held-out shards.
    """

    model_id: str
    loss: float
    num_parameters: int
    size_bytes: int
    wall_s: float
    holdout: list[dict[str, Any]] = field(default_factory=list)
