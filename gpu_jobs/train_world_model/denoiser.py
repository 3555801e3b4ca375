"""Training the diffusion transformer together with its text encoder."""

# B batch, C channels, T frames, H height, W width, L tokens

import contextlib
from typing import Any

from gpu_jobs.train_world_model.autoencoder import autocast, windows
from gpu_jobs.train_world_model.data import Footage
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

        from gpu_jobs.train_world_model.model import Averages, build_text_encoder, build_transformer

        torch.manual_seed(derive_seed(spec.seed, self.part))
        self.spec, self.footage, self.frames = spec, footage, frames
        self.autoencoder = autoencoder
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
        shape = (1, -1, 1, 1, 1)
        config = autoencoder.config
        self.mean = torch.tensor(config.latents_mean, device=spec.device).view(shape)
        self.std = torch.tensor(config.latents_std, device=spec.device).view(shape)
        self.tokens = _tokenized([*footage.captions, "", NEGATIVE_PROMPT], tokenizer, spec)
        self.row = {text: i for i, text in enumerate([*footage.captions, "", NEGATIVE_PROMPT])}
        self.hook = self.transformer.patch_embed.register_forward_hook(_in_full_precision)
        if spec.compile:
            compile_blocks(self.transformer)

    def step(self, stage: Stage, number: int, *, rate: float) -> Any:
        """One optimizer step."""
        import torch

        from gpu_jobs.train_world_model.model import SIGMA_DATA, denoising_loss, encode_captions

        video_BCTHW, chosen = windows(self.frames, stage, number, self.spec.seed, self.part)
        rows = [self.row[text] for text in self._texts(chosen, number)]
        ids_BL, mask_BL = (tensor[rows].to(self.spec.device) for tensor in self.tokens)
        generator = torch.Generator().manual_seed(derive_seed(self.spec.seed, self.part, number))
        with autocast(self.spec):
            with torch.no_grad():
                latent = self.autoencoder.encode(video_BCTHW).latent_dist.mode().float()
            context = encode_captions(
                self.text_encoder, ids_BL, mask_BL, length=self.spec.context_tokens
            )
            with _attention(self.spec.attention):
                loss = denoising_loss(
                    self.transformer,
                    (latent - self.mean) / self.std * SIGMA_DATA,
                    context,
                    frame_size=(video_BCTHW.shape[3], video_BCTHW.shape[4]),
                    rate_fps=self.footage.rate_fps,
                    generator=generator,
                )
        for group in self.optimizer.param_groups:
            group["lr"] = self.spec.transformer_learning_rate * rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        self.averages.update()
        return loss

    def _texts(self, chosen: list[int], number: int) -> list[str]:
        """One caption of each clip; a few are replaced by what guidance will lead away from."""
        rng = stream(self.spec.seed, self.part, "captions", number)
        texts = []
        for index in chosen:
            captions = self.footage.clips[index]["captions"]
            text = captions[int(rng.integers(len(captions)))]
            if rng.random() < self.spec.caption_dropout:
                text = NEGATIVE_PROMPT if rng.random() < 0.5 else ""
            texts.append(text)
        return texts

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


def _attention(kind: str) -> Any:
    """Which attention kernels may be chosen, the first that can be used."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    if kind != "cudnn":
        return contextlib.nullcontext()
    order = ("CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH")
    return sdpa_kernel([getattr(SDPBackend, name) for name in order], set_priority=True)


def _in_full_precision(module: Any, inputs: Any, output: Any) -> Any:
    """Tokens between blocks in float32: autocast makes them so after the first block anyway."""
    return output.float()


def _tokenized(texts: list[str], tokenizer: Any, spec: TrainWorldModelSpec) -> tuple[Any, Any]:
    """Ids and mask of all texts, int64 and bool (N, L) on the CPU."""
    tokens = tokenizer(
        texts,
        padding="max_length",
        truncation=True,
        max_length=spec.caption_tokens,
        return_tensors="pt",
    )
    return tokens.input_ids, tokens.attention_mask.bool()
