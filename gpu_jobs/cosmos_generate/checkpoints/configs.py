"""What a checkpoint's tensors say about its network, and whether it is the one that was asked for.

Published checkpoints in the makers' own layouts carry no settings that diffusers could read, so the
settings are read off the shapes of their tensors. What no shape tells (the scale of the rotary
positions) is a table by model.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldloop.cosmos.families import FAMILIES
from worldloop.cosmos.models import Model
from worldloop.errors import MalformedRecordError

State = Mapping[str, Any]

COSMOS1, PREDICT2 = "Cosmos-1.0 or Predict1", "Predict2, Predict2.5 or Transfer2.5"
LAYOUT_OF_FAMILY = {
    "cosmos1": COSMOS1,
    "predict1": COSMOS1,
    "predict2": PREDICT2,
    "predict2.5": PREDICT2,
    "transfer2.5": PREDICT2,
}
PATCH_SIZE = (1, 2, 2)

# scripts/convert_cosmos_to_diffusers.py of diffusers, TRANSFORMER_CONFIGS, commit 0a88230
_ROPE_SCALES = {
    ("cosmos1", "7B"): (2.0, 1.0, 1.0),
    ("cosmos1", "14B"): (2.0, 2.0, 2.0),
    ("predict1", "7B"): (2.0, 1.0, 1.0),
    ("predict1", "14B"): (2.0, 2.0, 2.0),
    ("predict2", "2B"): (1.0, 3.0, 3.0),
    ("predict2", "14B"): (20 / 24, 2.0, 2.0),
}
_ROPE_SCALE_OF_PICTURES = (1.0, 4.0, 4.0)
_ROPE_SCALE_OTHERWISE = {COSMOS1: (2.0, 1.0, 1.0), PREDICT2: (1.0, 3.0, 3.0)}


@dataclass(frozen=True)
class Network:
    """A transformer's shape.

    Attributes:
        layout: `COSMOS1` or `PREDICT2`: which line it belongs to.
        width: Of a token.
        num_layers: Blocks.
        in_channels: Latent channels, and one more if conditioning frames are marked.
    """

    layout: str
    width: int
    num_layers: int
    in_channels: int

    @classmethod
    def of_model(cls, model: Model) -> "Network":
        """What a model of the registry should be."""
        conditioned = model.task not in ("text2world", "text2image")
        return cls(
            layout=LAYOUT_OF_FAMILY[model.family],
            width=model.token_width,
            num_layers=model.num_layers,
            in_channels=model.latent_channels + int(conditioned),
        )

    @classmethod
    def of_state(cls, state: State, config: Mapping[str, Any]) -> "Network":
        """What diffusers tensors and settings are."""
        blocks = {key.split(".")[1] for key in state if key.startswith("transformer_blocks.")}
        return cls(
            layout=COSMOS1 if config.get("extra_pos_embed_type") else PREDICT2,
            width=int(state["patch_embed.proj.weight"].shape[0]),
            num_layers=len(blocks),
            in_channels=int(config["in_channels"]),
        )

    def words(self) -> str:
        """For a message.

        Example:
            >>> Network(COSMOS1, 4096, 28, 16).words()
            'Cosmos-1.0 or Predict1, 28 blocks of width 4096, 16 input channels'
        """
        return (
            f"{self.layout}, {self.num_layers} blocks of width {self.width}, "
            f"{self.in_channels} input channels"
        )


def check_network(found: Network, model: Model, where: Path) -> None:
    """Refuse weights of another family, size or task.

    Raises:
        MalformedRecordError: Naming what was found and what the model is.
    """
    expected = Network.of_model(model)
    if found != expected:
        raise MalformedRecordError(
            f"weights in {where.parent.name}/{where.name}",
            found.words(),
            f"{expected.words()}, as {model.name} ({FAMILIES[model.family].title}) has",
            "Name the model that these weights belong to, or download this one.",
        )


def config_of(state: State, model: Model, folder: Path) -> dict[str, Any]:
    """Settings of `CosmosTransformer3DModel` that fit tensors with diffusers names.

    Args:
        state: All tensors, by diffusers names.
        model: Decides the rotary scale.
        folder: A `config.json` in it may say `rope_scale` and `num_attention_heads`.
    """
    width = int(state["patch_embed.proj.weight"].shape[0])
    cells = PATCH_SIZE[0] * PATCH_SIZE[1] * PATCH_SIZE[2]
    head_dim = int(state["transformer_blocks.0.attn1.norm_q.weight"].shape[0])
    config: dict[str, Any] = {
        "in_channels": int(state["patch_embed.proj.weight"].shape[1]) // cells - 1,
        "out_channels": int(state["proj_out.weight"].shape[0]) // cells,
        "num_attention_heads": width // head_dim,
        "attention_head_dim": head_dim,
        "num_layers": len({k.split(".")[1] for k in state if k.startswith("transformer_blocks.")}),
        "mlp_ratio": state["transformer_blocks.0.ff.net.0.proj.weight"].shape[0] / width,
        "text_embed_dim": int(state["transformer_blocks.0.attn2.to_k.weight"].shape[1]),
        "adaln_lora_dim": int(state["transformer_blocks.0.norm1.linear_1.weight"].shape[0]),
        "patch_size": PATCH_SIZE,
        "max_size": (128, 240, 240),
        "rope_scale": _rope_scale(model),
        "concat_padding_mask": True,
        "extra_pos_embed_type": None,
    }
    config.update(_positions(state), **_projections(state))
    path = folder / "config.json"
    known = json.loads(path.read_text()) if path.is_file() else {}
    return {**config, **{key: known[key] for key in ("rope_scale", "max_size") if key in known}}


def _rope_scale(model: Model) -> tuple[float, float, float]:
    if model.family == "predict2" and model.task == "text2image":
        return _ROPE_SCALE_OF_PICTURES
    otherwise = _ROPE_SCALE_OTHERWISE[LAYOUT_OF_FAMILY[model.family]]
    return _ROPE_SCALES.get((model.family, model.size), otherwise)


def _positions(state: State) -> dict[str, Any]:
    """Learnable positions, which only the Cosmos-1.0 line has."""
    if "learnable_pos_embed.pos_emb_t" not in state:
        return {}
    sizes = (
        int(state[f"learnable_pos_embed.pos_emb_{axis}"].shape[0]) * cells
        for axis, cells in zip("thw", PATCH_SIZE, strict=True)
    )
    return {"extra_pos_embed_type": "learnable", "max_size": tuple(sizes)}


def _projections(state: State) -> dict[str, Any]:
    """Projections of the text and of an empty picture, which Predict2.5 and Transfer2.5 have."""
    found: dict[str, Any] = {}
    if "crossattn_proj.0.weight" in state:
        out_size, in_size = state["crossattn_proj.0.weight"].shape
        found["use_crossattn_projection"] = True
        found["crossattn_proj_in_channels"] = int(in_size)
        found["encoder_hidden_states_channels"] = int(out_size)
    if "img_context_proj.0.weight" in state:
        out_size, in_size = state["img_context_proj.0.weight"].shape
        found["img_context_dim_in"], found["img_context_dim_out"] = int(in_size), int(out_size)
        found["controlnet_block_every_n"] = 7  # TRANSFORMER_CONFIGS, Cosmos-2.5-Transfer-General-2B
    return found


def control_config_of(state: State, base: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of `CosmosControlNetModel` that fit tensors with diffusers names.

    Args:
        state: All tensors of the control network.
        base: Settings of the transformer that it goes with.
    """
    cells = PATCH_SIZE[0] * PATCH_SIZE[1] * PATCH_SIZE[2]
    shared = (
        "num_attention_heads", "attention_head_dim", "mlp_ratio", "text_embed_dim",
        "adaln_lora_dim", "patch_size", "max_size", "rope_scale", "extra_pos_embed_type",
        "img_context_dim_in", "img_context_dim_out", "use_crossattn_projection",
        "crossattn_proj_in_channels", "encoder_hidden_states_channels",
    )  # fmt: skip
    return {
        **{name: base[name] for name in shared},
        "n_controlnet_blocks": len(
            {key.split(".")[1] for key in state if key.startswith("control_blocks.")}
        ),
        "model_channels": base["num_attention_heads"] * base["attention_head_dim"],
        "in_channels": int(state["patch_embed.proj.weight"].shape[1]) // cells,
        "latent_channels": int(state["patch_embed_base.proj.weight"].shape[1]) // cells,
    }
