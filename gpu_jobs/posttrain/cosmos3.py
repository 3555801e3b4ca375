"""What Cosmos 3 learns: worlds of words and first frames, as its published vision training has it.

Facts are those of NVIDIA/cosmos-framework, commit 5eee9ed, cosmos_framework/ and examples/; recipes
vision_sft_{nano,edge,super}. A window goes through `Cosmos3OmniTransformer` with the tokens of its
caption before it, laid out by the backend of `cosmos_generate`, so that training and inference share
tokens and positions.

- Loss: at time t the network sees (1 - t) clean + t noise and answers noise - clean; squared error,
  even weights. Given frames are clean, have no time and no part in the loss, but count in its mean
  (model/generator/algorithm/loss/flow_matching.py). Text has no loss.
- Times of videos are "waver", of pictures logistic-normal; both are shifted by the resolution
  (model/generator/diffusion/rectified_flow.py; shifts: .../sft/models/nano_model_config.py).
- Captions: the chat template of the checkpoint, prose with the sentences on length and size, JSON
  without; a dropped caption is empty, sentences and all (data/generator/local_datasets/sft_dataset.py).
- Trained are weights of the generator, never of the reasoner (`keys_to_select`).

Not here: sound, actions, transfer, LiDAR and the reasoner's own training, which have data of their own;
distillation to four steps; packing of several clips into one sequence, which changes no loss.
"""

# B batch, C channels, T latent frames, H height, W width, L tokens

import contextlib
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

from gpu_jobs.cosmos_generate.media import RULES, MediaRule
from gpu_jobs.posttrain.objectives import (
    Batch,
    Cost,
    Descent,
    Noise,
    Objective,
    normal_at,
    window_flops,
)
from worldloop.cosmos.families import ClipShape, Family
from worldloop.cosmos.models import Model
from worldloop.cosmos.requests import is_structured
from worldloop.errors import MalformedRecordError
from worldloop.seeds import content_id

Tensor = Any  # torch.Tensor; torch is imported inside functions

WAVER = 1.29  # TrainTimeSampler._WAVER_MODE_S of rectified_flow.py
SHIFTS = {
    "256": 3.0,
    "480": 5.0,
    "720": 10.0,
}  # models/nano_model_config.py, the same for all sizes
# get_vision_data_resolution of utils/generator/image_resize.py: the longest short side of a tier
_TIERS = ((256, "256"), (640, "480"), (960, "720"))
_TIMESTEPS = 1000.0  # num_train_timesteps of the scheduler that times are told in
# examples/toml/sft_config/vision_sft_*.toml, [optimizer] and [trainer.callbacks.grad_clip]
_DESCENT = Descent(betas=(0.9, 0.95), eps=1e-6, gradient_norm=0.1)
EDGE_LOSS_SCALE = 10.0  # models/edge_model_config.py
# vision_sft_*.py, keys_to_select `moe_gen`, `time_embedder`, `vae2llm`, `llm2vae` and, of Edge,
# `k_norm_und_for_gen`, by diffusers' names (scripts/_convert_model_to_diffusers.py)
_GENERATOR = re.compile(
    r"(^|\.)(add_[qkv]_proj|to_add_out|norm_added_[qk]|k_norm_und_for_gen|mlp_moe_gen"
    r"|input_layernorm_moe_gen|post_attention_layernorm_moe_gen|norm_moe_gen|time_embedder"
    r"|proj_in|proj_out)\."
)
_SAMPLE = "A street."  # tells tokenizers and chat templates apart
_TEMPLATE = (
    512  # tokens that chat template, system prompt and sentences have room in beside a caption
)


def is_generators(parameter: str) -> bool:
    """Whether published trainings change the parameter with this name: the reasoner stays what it is.

    Example:
        >>> is_generators("layers.0.self_attn.add_q_proj.weight"), is_generators("proj_in.bias")
        (True, True)
        >>> is_generators("layers.0.self_attn.to_q.weight"), is_generators("audio_proj_in.weight")
        (False, False)
    """
    return bool(_GENERATOR.search(parameter))


def caption_length(family: Family) -> int:
    """Tokens of a caption with the zeros behind it."""
    return family.max_prompt_tokens + _TEMPLATE


def shift_of(shape: ClipShape) -> float:
    """How far times are shifted towards noise for the size of a window.

    Raises:
        MalformedRecordError: If it is larger than what the published training has a shift for.

    Example:
        >>> shift_of(ClipShape(189, 320, 192, 24)), shift_of(ClipShape(189, 1280, 720, 24))
        (3.0, 10.0)
    """
    short = min(shape.height_px, shape.width_px)
    for longest, tier in _TIERS:
        if short <= longest:
            return SHIFTS[tier]
    raise MalformedRecordError(
        "video_size for Cosmos 3",
        f"{shape.height_px} x {shape.width_px}",
        f"a shorter side of at most {_TIERS[-1][0]}, which training times are published for",
        "Train on smaller windows.",
    )


def waver_times(places_B: Tensor) -> Tensor:
    """Quantiles of the times of videos before their shift, float64: 0 at 0, 1 at 1."""
    import torch

    even_B = 1.0 - places_B.double()
    bent_B = torch.cos(math.pi / 2 * even_B).square() - 1 + even_B
    return 1.0 - even_B - WAVER * bent_B


def times_of(places_B: Tensor, shape: ClipShape) -> Tensor:
    """Times at quantiles of the training distribution, float32 (B,) on the CPU.

    Args:
        places_B: Between 0 and 1.
        shape: Of the windows; 1 frame is a picture.

    Raises:
        MalformedRecordError: If windows are too large, see `shift_of`.
    """
    import torch

    shift = shift_of(shape)
    is_picture = shape.num_frames == 1
    times_B = torch.sigmoid(normal_at(places_B)) if is_picture else waver_times(places_B)
    return (shift * times_B / (1 + (shift - 1) * times_B)).float()


@dataclass(frozen=True)
class Cosmos3Objective(Objective):
    """A rectified flow of windows that stand behind their captions in one sequence.

    A caption is its token ids plus 1, zeros behind them, (L, 1): captions of one length for the batch.

    Attributes:
        loss_scale: What the published loss is multiplied with before gradients are clipped.
        pipeline: Of the backend, for tokens and positions.
        max_tokens: Length of a caption with its zeros.
    """

    loss_scale: float = 1.0
    pipeline: Any = None
    max_tokens: int = 0
    text_part: ClassVar[str] = ""
    fit: ClassVar[MediaRule] = RULES["cosmos3"]

    @property
    def descent(self) -> Descent:
        """See `Objective`; AdamW takes a scaled loss as it takes a clip and an epsilon divided by the scale."""
        scale = self.loss_scale
        return replace(
            _DESCENT, eps=_DESCENT.eps / scale, gradient_norm=_DESCENT.gradient_norm / scale
        )

    def bound_to(self, world: Any) -> "Cosmos3Objective":
        """See `Objective`."""
        return replace(self, pipeline=world.pipeline, max_tokens=caption_length(world.family))

    def trains(self, parameter: str) -> bool:
        """See `Objective`."""
        return is_generators(parameter)

    def context(self, world: Any, caption: str, shape: ClipShape) -> Tensor:
        """See `Objective`; prose is followed by the sentences on length and size, JSON by none."""
        world.encode(caption, "")  # refuses what is too long
        return self._padded(self.tokens(caption, shape, told=not is_structured(caption)))

    def dropped(self, blank: Callable[[], Tensor], shape: ClipShape, *, negative: bool) -> Tensor:
        """See `Objective`; always an empty text, as published."""
        return self._padded(self.tokens("", shape, told=False))

    def caption_key(self, caption: str, shape: ClipShape) -> str:
        """See `Objective`; the sentences depend on the shape. It begins with the caption's own hash."""
        told = content_id(asdict(shape))
        return f"{super().caption_key(caption, shape)}.{told[:12]}"

    def text_id(self, world: Any) -> str:
        """See `Objective`; the tokens of a sentence, with the system prompt if there is one."""
        return str(self.tokens(_SAMPLE, world.family.shape, told=True))

    def tokens(self, caption: str, shape: ClipShape, *, told: bool) -> list[int]:
        """Token ids of a caption by the pipeline's own function.

        Args:
            caption: In words or JSON.
            shape: Of the window.
            told: Whether sentences on length and size follow.
        """
        ids, _ = self.pipeline.tokenize_prompt(
            caption,
            "",
            num_frames=shape.num_frames,
            height=shape.height_px,
            width=shape.width_px,
            fps=float(shape.rate_fps),
            add_resolution_template=told,
            add_duration_template=told,
        )
        return list(ids)

    def encoded(self, world: Any, video_BCTHW: Tensor) -> Tensor:
        """See `Objective`."""
        import torch

        from gpu_jobs.cosmos_generate.backends.cosmos3_inputs import encoded

        count = int(video_BCTHW.shape[2])
        each = [encoded(world.pipeline, one[None], num_frames=count) for one in video_BCTHW]
        return torch.cat(each)

    def losses(self, transformer: Any, batch: Batch, places_B: Tensor, noise: Noise) -> Tensor:
        """See `Objective`; windows pass one after the other, the sequence has no batch."""
        import torch

        times_B = times_of(places_B, batch.shape)
        drawn_BCTHW = noise.normal("latent", batch.latent)
        indicator = batch.indicator()
        with _one_precision(transformer):
            each = [
                self._loss(transformer, batch, number, float(time), drawn_BCTHW, indicator)
                for number, time in enumerate(times_B)
            ]
        return torch.stack(each)

    def velocity(
        self, transformer: Any, seen_CTHW: Tensor, context: Tensor, shape: ClipShape, *,
        time: float, given: int,
    ) -> Tensor:  # fmt: skip
        """What the network answers for one window, float32 (C, T, H, W); zeros for given frames.

        Args:
            transformer: The network.
            seen_CTHW: Noisy latents, given frames clean.
            context: Its caption, (L, 1).
            shape: With the frames per second.
            time: Of the noisy frames.
            given: First latent frames that are given.
        """
        import torch

        from gpu_jobs.cosmos_generate.backends.cosmos3_packing import (
            Extras,
            VideoItem,
            build_pack,
        )

        ids = [number - 1 for number in context.flatten().tolist() if number]
        latent = seen_CTHW[None].to(transformer.proj_in.weight.dtype)
        pack = build_pack(
            self.pipeline,
            ids,
            [VideoItem(latent, given)],
            Extras(),
            rate_fps=float(shape.rate_fps),
            device=latent.device,
        )
        told = torch.full((pack.num_noisy_video,), time * _TIMESTEPS, device=latent.device)
        answers, _, _ = transformer(
            **pack.full, vision_tokens=[latent], vision_timesteps=told, return_dict=False
        )
        return answers[0][0].float()

    def step_cost(self, world: Any, batch_size: int, latent: Tensor, context: Tensor) -> Cost:
        """See `Objective`; the reasoner reads every caption once and has no gradients."""
        config = world.parts["transformer"].config
        _, frames, height, width = latent.shape
        patch, text = config.latent_patch_size, int(context.count_nonzero())
        known = replace(
            world.model,
            num_layers=config.num_hidden_layers,
            num_heads=config.num_attention_heads,
            num_kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            width=config.hidden_size,
            mlp_width=config.intermediate_size,
            patch=patch,
        )
        once = window_flops(known, latent, batch_size, text_tokens=text)
        each = frames * -(-height // patch) * -(-width // patch)
        return Cost(batch_size * each, once, beside=once.linears * text / each)

    def _loss(
        self, transformer: Any, batch: Batch, number: int, time: float, drawn: Tensor, given: Tensor
    ) -> Tensor:
        clean, noise, mark = batch.latent[number], drawn[number], given[number]
        noisy = (1 - time) * clean + time * noise
        answer = self.velocity(
            transformer,
            mark * clean + (1 - mark) * noisy,
            batch.context[number],
            batch.shape,
            time=time,
            given=batch.given[number],
        )
        wrong_CTHW = (answer - (noise - batch.wanted[number])) * (1 - mark)
        return wrong_CTHW.square().mean()

    def _padded(self, ids: list[int]) -> Tensor:
        import torch

        context = torch.zeros(self.max_tokens, 1, dtype=torch.int32)
        context[: len(ids), 0] = torch.tensor(ids, dtype=torch.int32) + 1
        return context


def cosmos3_objective(model: Model) -> Cosmos3Objective:
    """What a model of the family learns.

    Raises:
        MalformedRecordError: If it is one whose training is not published as vision training.
    """
    if "distilled" in model.features or model.task == "action":
        raise MalformedRecordError(
            f"{model.name} for post-training",
            "a model of four steps" if "distilled" in model.features else "a model of actions",
            "Cosmos3-Edge, Cosmos3-Nano or Cosmos3-Super, as published for worlds",
            "Train one of these; distillation and action heads are not trained here.",
        )
    takes_frames = bool({"image2world", "video2world"} & set(model.all_tasks))
    return Cosmos3Objective(
        takes_frames, loss_scale=EDGE_LOSS_SCALE if model.size == "Edge" else 1.0
    )


@contextlib.contextmanager
def _one_precision(transformer: Any) -> Iterator[None]:
    """Under autocast, tokens of video in the precision of the text's, which they are written beside."""
    to = transformer.embed_tokens.weight.dtype
    hook = transformer.proj_in.register_forward_hook(lambda _, given, out: out.to(to))
    try:
        yield
    finally:
        hook.remove()
