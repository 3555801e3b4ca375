"""Trains the starter from nothing on frames and captions: `python -m gpu_jobs.train_embedder.job`."""

# B batch, C channels, H height, W width, L tokens

import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from gpu_jobs.common.entry import run_job
from gpu_jobs.common.torch_ops import import_open_clip
from gpu_jobs.train_embedder.shards import LABELS, FrameShard, read_shards
from gpu_jobs.train_embedder.spec import TrainEmbedderReport, TrainEmbedderSpec
from worldloop.seeds import stream

_MAX_LOGIT_SCALE = 4.6052  # ln 100, CLIP's own limit
_CROP_SHARES = (0.55, 1.0)  # of the frame's area; never mirrored, for signs and driving sides


def train_embedder(spec: TrainEmbedderSpec) -> TrainEmbedderReport:
    """Train, save and judge a model.

    Raises:
        JobFailedError: If there are no shards.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # repeatable matrix products
    import torch

    from gpu_jobs.embed_clips.model import EmbedModel, save_starter

    torch.manual_seed(spec.seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    shard = read_shards(Path(spec.shards_dir))
    started = time.monotonic()
    trainer = _Trainer(spec, shard)
    losses = [trainer.step(i) for i in range(spec.num_steps)]
    wall_s = time.monotonic() - started
    folder, loss = Path(spec.output_dir), float(np.mean(losses[-max(1, len(losses) // 10) :]))
    config = {
        "name": spec.name,
        "model_cfg": spec.model_cfg,
        "preprocess_cfg": spec.preprocess_cfg,
    }
    card = {
        "training": {k: v for k, v in asdict(spec).items() if not k.endswith("_dir")},
        "data": _describe(shard),
        "loss": loss,
        "torch": torch.__version__,
    }
    export = {"seen_tokens": trainer.seen, "unknown_token": trainer.unknown}
    save_starter(folder, trainer.network, config, card=card, **export)
    holdout: list[dict[str, Any]] = []
    if spec.holdout_dir:
        from gpu_jobs.train_embedder.evaluate import distances, evaluate

        others = read_shards(Path(spec.holdout_dir))
        model = EmbedModel.load(str(folder), device=spec.device)
        holdout = evaluate(model, others)
        card |= {
            "holdout": holdout,
            "holdout_data": _describe(others),
            "distances": distances(model, others),
        }
        save_starter(folder, trainer.network, config, card=card, **export)
    return TrainEmbedderReport(
        model_id=EmbedModel.load(str(folder)).model_id,
        loss=loss,
        num_parameters=trainer.num_parameters,
        size_bytes=sum(path.stat().st_size for path in folder.iterdir()),
        wall_s=round(wall_s, 1),
        holdout=holdout,
    )


class _Trainer:
    """Data, network and optimizer of one training."""

    def __init__(self, spec: TrainEmbedderSpec, shard: FrameShard):
        import torch

        from gpu_jobs.embed_clips.model import build_network

        self.spec, self.torch = spec, torch
        network, tokenize = build_network(spec.model_cfg)
        self.network = network.to(spec.device).train()
        table = self.network.token_embedding.weight
        self.num_parameters = sum(p.numel() for p in network.parameters()) - table.numel()
        self.frames_NHWC = torch.from_numpy(shard.frames).to(spec.device)
        self.frames_of_scene = _ranges(shard.scene_of_frame, len(shard.scenes))
        captions = [caption for scene in shard.scenes for caption in scene["captions"]]
        owners = [i for i, scene in enumerate(shard.scenes) for _ in scene["captions"]]
        self.captions_of_scene = _ranges(np.array(owners), len(shard.scenes))
        distinct = {caption: i for i, caption in enumerate(dict.fromkeys(captions))}
        self.caption_index = np.array([distinct[caption] for caption in captions])
        self.tokens_NL = tokenize(list(distinct)).to(spec.device)
        self.seen = self.tokens_NL.unique().cpu()
        self.unknown = int(max(set(range(table.shape[0] - 2)) - set(self.seen.tolist())))
        self.loss = import_open_clip().ClipLoss()
        decayed = [p for p in network.parameters() if p.ndim >= 2 and p is not table]
        plain = [p for p in network.parameters() if p.ndim < 2 or p is table]
        groups = [
            {"params": decayed, "weight_decay": spec.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=spec.learning_rate, betas=(0.9, 0.98))
        self.generator = torch.Generator(spec.device).manual_seed(spec.seed)

    def step(self, index: int) -> float:
        """One optimizer step; returns the loss."""
        torch, spec = self.torch, self.spec
        for group in self.optimizer.param_groups:
            group["lr"] = spec.learning_rate * _schedule(index, spec)
        pixels_BCHW, tokens_BL = self._batch(index)
        kind = spec.device.split(":")[0]
        with torch.autocast(kind, torch.bfloat16, enabled=spec.precision == "bf16"):
            loss = self.loss(*self.network(pixels_BCHW, tokens_BL))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        with torch.no_grad():
            self.network.logit_scale.clamp_(0, _MAX_LOGIT_SCALE)
        return float(loss.detach())

    def _batch(self, index: int) -> tuple[Any, Any]:
        """One frame and one caption of `batch_size` different scenes."""
        torch, spec = self.torch, self.spec
        rng = stream(spec.seed, "train_embedder", index)
        num_scenes = len(self.frames_of_scene)
        scenes = rng.permutation(num_scenes)[: spec.batch_size]
        frames = _pick(self.frames_of_scene[scenes], rng)
        captions = self.caption_index[_pick(self.captions_of_scene[scenes], rng)]
        pixels = self.frames_NHWC[torch.from_numpy(frames).to(spec.device)].permute(0, 3, 1, 2)
        tokens = self.tokens_NL[torch.from_numpy(captions).to(spec.device)]
        return self._augment(pixels.float() / 255), self._forget_words(tokens)

    def _forget_words(self, tokens_BL: Any) -> Any:
        """Some words become the unknown word, so that unknown words of a query do little harm."""
        torch = self.torch
        chance = torch.rand(tokens_BL.shape, generator=self.generator, device=tokens_BL.device)
        special = (tokens_BL == 0) | (
            tokens_BL >= self.spec.model_cfg["text_cfg"]["vocab_size"] - 2
        )
        return torch.where((chance < self.spec.unknown_share) & ~special, self.unknown, tokens_BL)

    def _augment(self, pixels_BCHW: Any) -> Any:
        """Random crop, brightness and contrast, in the shape and range that the network wants."""
        torch, device = self.torch, pixels_BCHW.device
        batch = len(pixels_BCHW)

        def uniform(low: float, high: float, *shape: int) -> Any:
            share = torch.rand((batch, *shape), generator=self.generator, device=device)
            return low + (high - low) * share

        side = uniform(*_CROP_SHARES).sqrt()
        shift = uniform(-1, 1, 2) * (1 - side[:, None])
        theta = torch.zeros((batch, 2, 3), device=device)
        theta[:, 0, 0] = theta[:, 1, 1] = side
        theta[:, :, 2] = shift
        size = (batch, 3, *self.spec.preprocess_cfg["size"])
        grid = torch.nn.functional.affine_grid(theta, size, align_corners=False)
        cropped = torch.nn.functional.grid_sample(
            pixels_BCHW, grid, padding_mode="border", align_corners=False
        )
        mean = cropped.mean(dim=(1, 2, 3), keepdim=True)
        contrast, gain = uniform(0.85, 1.15, 1, 1, 1), uniform(0.9, 1.1, 1, 1, 1)
        changed = (((cropped - mean) * contrast + mean) * gain).clamp(0, 1)
        preprocess = self.spec.preprocess_cfg
        center = torch.tensor(preprocess["mean"], device=device).view(1, 3, 1, 1)
        return (changed - center) / torch.tensor(preprocess["std"], device=device).view(1, 3, 1, 1)


def _schedule(index: int, spec: TrainEmbedderSpec) -> float:
    """Share of the peak learning rate: linear warm-up, then a cosine to zero."""
    if index < spec.warmup_steps:
        return (index + 1) / spec.warmup_steps
    progress = (index - spec.warmup_steps) / max(1, spec.num_steps - spec.warmup_steps)
    return float(0.5 + 0.5 * np.cos(np.pi * progress))


def _ranges(owner: Any, num_owners: int) -> Any:
    """int64 (num_owners, 2): the half-open range of rows that each owner has."""
    edges = np.searchsorted(owner, np.arange(num_owners + 1))
    return np.stack([edges[:-1], edges[1:]], axis=1)


def _pick(ranges: Any, rng: np.random.Generator) -> Any:
    """One row of each range."""
    return rng.integers(ranges[:, 0], ranges[:, 1])


def _describe(shard: FrameShard) -> dict[str, Any]:
    """What a model card says about its data."""
    counts = {label: sorted({scene[label] for scene in shard.scenes}) for label in LABELS}
    return {
        "num_scenes": len(shard.scenes),
        "num_frames": len(shard.frames),
        "frame_shape": list(shard.frames.shape[1:]),
        "num_captions": sum(len(scene["captions"]) for scene in shard.scenes),
        **counts,
    }


if __name__ == "__main__":
    sys.exit(run_job(TrainEmbedderSpec, train_embedder))
