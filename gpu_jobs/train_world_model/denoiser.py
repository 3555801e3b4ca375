"""Training the diffusion transformer together with its text encoder."""

# B batch, C channels, T latent frames, H height, W width, L tokens

import contextlib
from typing import Any

from gpu_jobs.train_world_model.autoencoder import autocast
from gpu_jobs.train_world_model.data import Footage
from gpu_jobs.train_world_model.latents import Latents
from gpu_jobs.train_world_model.spec import Stage, TrainWorldModelSpec
from worldloop.cosmos.families import family
from worldloop.seeds import derive_seed, stream

NEGATIVE_PROMPT = family("cosmos1").negative_prompt


class DenoiserLearner:
    """Transformer and text encoder in training.

    Args:
        spec: What to train.
        footage: Facts and captions of the clips.
        frames: The frames of the footage, a uint8 tensor (N, T, H, W, 3) on the device.
        autoencoder: Trained, with the statistics of its latents in its config.
        tokenizer: Of the captions.
    """

    part = "transformer"

    def __init__(
        self,
        spec: TrainWorldModelSpec,
        footage: Footage,
        frames: Any,
        *,
        autoencoder: Any,
        tokenizer: Any,
    ):
        import torch

        from gpu_jobs.train_world_model.model import (
            Averages,
            NoiseLevels,
            build_text_encoder,
            build_transformer,
        )

        torch.manual_seed(derive_seed(spec.seed, self.part))
        self.spec, self.footage = spec, footage
        self.frame_size = (int(frames.shape[2]), int(frames.shape[3]))
        self.latents = Latents(spec, frames, autoencoder)
        self.levels = NoiseLevels(spec.sigma_mean, spec.sigma_std)
        self.transformer = build_transformer(spec.transformer).to(spec.device).train()
        text_encoder = build_text_encoder(spec.text_encoder, vocab_size=len(tokenizer))
        self.text_encoder = text_encoder.to(spec.device).train()
        modules = {"transformer": self.transformer, "text_encoder": self.text_encoder}
        self.averages = Averages(modules, decay=spec.ema_decay)
        self.weights = [p for module in modules.values() for p in module.parameters()]
        self.optimizer = torch.optim.AdamW(
            self.weights,
            lr=spec.transformer_learning_rate,
            betas=(0.9, 0.99),
            weight_decay=0.01,
            fused=spec.device != "cpu",
        )
        self.captions = Captions(spec, footage, tokenizer, self.part)
        self.hook = in_full_precision(self.transformer)
        if spec.compile:
            compile_blocks(self.transformer)

    def step(self, stage: Stage, number: int, *, rate: float) -> Any:
        """One optimizer step."""
        import torch

        from gpu_jobs.train_world_model.model import denoising_loss, encode_captions

        latent_BCTHW, chosen = self.latents.batch(stage, number, self.spec.seed, self.part)
        ids_BL, mask_BL = self.captions.draw(chosen, number)
        generator = torch.Generator().manual_seed(derive_seed(self.spec.seed, self.part, number))
        with autocast(self.spec):
            context = encode_captions(
                self.text_encoder, ids_BL, mask_BL, length=self.spec.context_tokens
            )
            with attention_kernels(self.spec.attention):
                loss = denoising_loss(
                    self.transformer,
                    latent_BCTHW,
                    context,
                    frame_size=self.frame_size,
                    rate_fps=self.footage.rate_fps,
                    generator=generator,
                    levels=self.levels,
                )
        for group in self.optimizer.param_groups:
            group["lr"] = self.spec.transformer_learning_rate * rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        self.averages.update()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Weights, their averages and the optimizer."""
        return {
            "transformer": self.transformer.state_dict(),
            "text_encoder": self.text_encoder.state_dict(),
            "averages": self.averages.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.transformer.load_state_dict(state["transformer"])
        self.text_encoder.load_state_dict(state["text_encoder"])
        self.averages.load_state_dict(state["averages"])
        self.optimizer.load_state_dict(state["optimizer"])

    def finished(self) -> tuple[Any, Any]:
        """Transformer and text encoder with averaged weights."""
        self.averages.apply()
        self.hook.remove()
        return self.transformer.eval(), self.text_encoder.eval()


def compile_blocks(transformer: Any) -> None:
    """Compile the blocks: what is compiled for one serves all, once per shape."""
    import torch

    torch._dynamo.config.recompile_limit = 64
    for block in transformer.transformer_blocks:
        block.compile(dynamic=False)


def attention_kernels(kind: str) -> Any:
    """Which attention kernels may be chosen, the first that can be used."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    if kind != "cudnn":
        return contextlib.nullcontext()
    order = ("CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH")
    return sdpa_kernel([getattr(SDPBackend, name) for name in order], set_priority=True)


def in_full_precision(transformer: Any) -> Any:
    """Keep tokens between blocks in float32: autocast makes them so after the first block anyway.

    Returns:
        The handle that ends it.
    """
    return transformer.patch_embed.register_forward_hook(
        lambda module, inputs, output: output.float()
    )


class Captions:
    """Captions of clips as tokens, drawn anew in each step.

    Args:
        spec: Says how long they may be, how many are left out, and where they go.
        footage: Facts and captions of the clips.
        tokenizer: Of the captions.
        part: Of the training, for its random streams.
    """

    def __init__(self, spec: Any, footage: Footage, tokenizer: Any, part: str):
        self.spec, self.footage, self.part = spec, footage, part
        texts = [*footage.captions, "", NEGATIVE_PROMPT]
        self.tokens = _tokenized(texts, tokenizer, spec.caption_tokens)
        self.row = {text: i for i, text in enumerate(texts)}

    def draw(self, chosen: list[int], number: int) -> tuple[Any, Any]:
        """Ids and mask (B, L) of one caption of each clip; a few are what guidance leads away from."""
        rng = stream(self.spec.seed, self.part, "captions", number)
        texts = []
        for index in chosen:
            captions = self.footage.clips[index]["captions"]
            text = captions[int(rng.integers(len(captions)))]
            if rng.random() < self.spec.caption_dropout:
                text = NEGATIVE_PROMPT if rng.random() < 0.5 else ""
            texts.append(text)
        rows = [self.row[text] for text in texts]
        ids_BL, mask_BL = (tensor[rows].to(self.spec.device) for tensor in self.tokens)
        return ids_BL, mask_BL


def _tokenized(texts: list[str], tokenizer: Any, max_length: int) -> tuple[Any, Any]:
    """Ids and mask of all texts, int64 and bool (N, L) on the CPU."""
    tokens = tokenizer(
        texts,
        padding="max_length",
        truncation=True,
        max_length=max_length,
        return_tensors="pt",
    )
    return tokens.input_ids, tokens.attention_mask.bool()
