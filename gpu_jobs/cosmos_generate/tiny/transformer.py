"""What the transformers of all tiny checkpoints have in common: two narrow layers of the published kind."""

from typing import Any

NARROW: dict[str, Any] = {
    "out_channels": 16,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 2,
    "mlp_ratio": 4.0,
    "adaln_lora_dim": 8,
    "max_size": (128, 240, 240),
    "patch_size": (1, 2, 2),
    "concat_padding_mask": True,
}
