"""What a Cosmos 3 folder holds, and the published shapes of Edge, Nano and Super.

Cosmos 3 is published as diffusers folders only. Two generations of them exist: Edge, the 4-step
models and later revisions name `Cosmos3OmniPipeline` in `model_index.json`; Nano and Super also
name `Cosmos3OmniDiffusersPipeline` and bring a `vision_encoder/` that generation does not need.
`modular_model_index.json` beside it tells 4-step models from others. Training checkpoints
(distributed, of cosmos-framework) are turned into such folders by NVIDIA's own converter.
"""

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gpu_jobs.common.torch_ops import import_diffusers
from gpu_jobs.cosmos_generate.protocol import Module
from worldloop.cosmos.models import Model
from worldloop.errors import MalformedRecordError

PIPELINES = ("Cosmos3OmniPipeline", "Cosmos3OmniDiffusersPipeline")

_OMNI: dict[str, Any] = {"action_gen": True, "action_dim": 64, "sound_gen": True, "sound_dim": 64}
TRANSFORMERS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "Nano": MappingProxyType(_OMNI),
        "Super": MappingProxyType(
            {
                **_OMNI,
                "hidden_size": 5120,
                "num_hidden_layers": 64,
                "num_attention_heads": 64,
                "intermediate_size": 25600,
            }
        ),
        "Edge": MappingProxyType(
            {
                "hidden_size": 2048,
                "num_hidden_layers": 28,
                "num_attention_heads": 16,
                "intermediate_size": 9216,
                "hidden_act": "relu2",
                "qk_norm_for_text": False,
                "use_und_k_norm_for_gen": True,
                "rms_norm_eps": 1e-5,
                "rope_theta": 1e8,
                "vocab_size": 131072,
                "action_gen": True,
                "action_dim": 64,
            }
        ),
    }
)
"""Arguments of `Cosmos3OmniTransformer` beside its defaults, which are those of Nano.

Nano (15.17 billion weights): the defaults of diffusers 0.42.1. Super (64.02): the geometry of the
Qwen3-VL 32B that it grew from. Edge (3.37): `transformer/config.json` of nvidia/Cosmos3-Edge.
"""

VAE: Mapping[str, Any] = MappingProxyType(
    {
        "base_dim": 160,
        "decoder_base_dim": 256,
        "z_dim": 48,
        "dim_mult": (1, 2, 4, 4),
        "num_res_blocks": 2,
        "attn_scales": (),
        "temperal_downsample": (False, True, True),
        "is_residual": True,
        "in_channels": 12,
        "out_channels": 12,
        "patch_size": 2,
        "scale_factor_spatial": 16,
        "scale_factor_temporal": 4,
    }
)
"""`AutoencoderKLWan` of Wan 2.2 TI2V 5B: scripts/convert_wan_to_diffusers.py of diffusers."""

UNIPC: Mapping[str, Any] = MappingProxyType(
    {
        "use_karras_sigmas": True,
        "use_flow_sigmas": True,
        "prediction_type": "flow_prediction",
        "sigma_max": 200.0,
        "sigma_min": 0.147,
    }
)
"""The published schedule: scripts/convert_cosmos3_to_diffusers.py of diffusers, commit 2aa39f7."""

FOUR_STEPS: Mapping[str, Any] = MappingProxyType(
    {
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "num_train_timesteps": 1000,
        "shift": 1.0,
        "stochastic_sampling": True,
    }
)
FOUR_SIGMAS = (1.0, 0.9375, 0.8333333333333334, 0.625)
"""Scheduler and noise levels of the 4-step models (nvidia/Cosmos3-Super-Text2Image-4Step)."""


@dataclass(frozen=True)
class Cosmos3Folder:
    """A folder of a model, checked.

    Attributes:
        path: The folder.
        use_system_prompt: Whether prompts are preceded by the model's system prompt.
        native_schedule: Whether noise levels are spaced evenly before they are shifted (Edge).
        scheduler_config: Of the checkpoint's scheduler.
        sigmas: Fixed noise levels of a distilled model; empty for others.
    """

    path: Path
    use_system_prompt: bool
    native_schedule: bool
    scheduler_config: dict[str, Any]
    sigmas: tuple[float, ...]

    @classmethod
    def read(cls, model: Model, checkpoint_dir: Path) -> "Cosmos3Folder":
        """Read the index files of a model's folder.

        Raises:
            MalformedRecordError: If the folder is missing, incomplete or holds another family.
        """
        path = checkpoint_dir / model.name
        index = _json(path / "model_index.json")
        modular = _json(path / "modular_model_index.json")
        scheduler = _json(path / "scheduler" / "scheduler_config.json")
        if not index or not scheduler:
            raise MalformedRecordError(
                f"model folder {path.name}",
                "no model_index.json" if not index else "no scheduler/scheduler_config.json",
                "a diffusers folder, the one layout in which Cosmos 3 is published",
                f"Run: worldloop models download {model.name}",
            )
        if index.get("_class_name") not in PIPELINES:
            raise MalformedRecordError(
                f"weights in {path.name}",
                index.get("_class_name"),
                f"weights of {' or '.join(PIPELINES)}",
                "Name the model that this folder holds, or download this one.",
            )
        fixed = scheduler.get("fixed_step_sampler_config") or {}
        sigmas = modular.get("distilled_sigmas") or fixed.get("t_list") or ()
        if "distilled" in model.features and not sigmas:
            raise MalformedRecordError(
                f"weights in {path.name}",
                "no distilled_sigmas in modular_model_index.json",
                f"the fixed noise levels of {model.name}",
                f"Run: worldloop models download {model.name}",
            )
        return cls(
            path,
            use_system_prompt=bool(index.get("default_use_system_prompt", True)),
            native_schedule=bool(index.get("use_native_flow_schedule", False)),
            scheduler_config=scheduler,
            sigmas=tuple(float(sigma) for sigma in sigmas),
        )

    def part(self, name: str) -> Path:
        """Folder of a part.

        Raises:
            MalformedRecordError: If it is not there.
        """
        return _part(self.path, name)

    def load_transformer(self, model: Model, *, transformer_dir: str, dtype: Any) -> Module:
        """The transformer, on the CPU, without the head that answers in words.

        Args:
            model: What it should be.
            transformer_dir: Folder of post-trained weights beside the model folders; empty: its own.
            dtype: Precision of the weights.

        Raises:
            MalformedRecordError: If it is missing, incomplete or of another size.
        """
        import torch

        diffusers = import_diffusers()
        owner = self.path.parent / transformer_dir if transformer_dir else self.path
        transformer, told = diffusers.Cosmos3OmniTransformer.from_pretrained(
            _part(owner, "transformer"), dtype=dtype, output_loading_info=True
        )
        _check_size(transformer.config, model, owner)
        missing = sorted(told["missing_keys"])
        if missing:  # diffusers would go on with random weights in their place
            raise MalformedRecordError(
                f"transformer in {owner.name}",
                f"no weights for {len(missing)} tensors, {missing[0]} first",
                f"all weights that diffusers {diffusers.__version__} has",
                "Download it again.",
            )
        transformer.lm_head = torch.nn.Identity()  # a gigabyte that generation never reads
        return transformer.eval()

    def load_sound_tokenizer(self, *, dtype: Any) -> Module | None:
        """The decoder of sound, on the CPU; None where the checkpoint has none."""
        if not (self.path / "sound_tokenizer").is_dir():
            return None
        diffusers = import_diffusers()
        with warnings.catch_warnings():
            # diffusers 0.42.1 builds it with a function that torch calls deprecated
            warnings.filterwarnings("ignore", ".*weight_norm", FutureWarning)
            return diffusers.Cosmos3AVAEAudioTokenizer.from_pretrained(
                self.path / "sound_tokenizer", dtype=dtype
            ).eval()


def _part(folder: Path, name: str) -> Path:
    if not (folder / name).is_dir():
        raise MalformedRecordError(
            f"model folder {folder.name}",
            f"no {name}/",
            "all parts of a Cosmos 3 folder",
            f"Run: worldloop models download {folder.name}",
        )
    return folder / name


def _check_size(config: Any, model: Model, folder: Path) -> None:
    found = (config.num_hidden_layers, config.hidden_size)
    expected = (model.num_layers, model.token_width)
    if found != expected:
        raise MalformedRecordError(
            f"transformer in {folder.name}",
            f"{found[0]} layers of width {found[1]}",
            f"{expected[0]} layers of width {expected[1]}, as {model.name} has",
            "Name the model that this folder holds, or download this one.",
        )


def _json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (UnicodeDecodeError, ValueError) as error:
        raise MalformedRecordError(
            f"file {path.name} in {path.parent.name}", str(error), "JSON", "Download it again."
        ) from error
