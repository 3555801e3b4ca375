"""FP8 while training, through Transformer Engine: the large linear layers of the blocks, forward and backward.

`te.Linear` scales every tensor by its largest value: inputs and weights become E4M3, gradients E5M2.
What is trained keeps its precision (an adapter float32, all weights float32), and so do norms, attention
and the first and last layers. Of an adapted layer the frozen one is computed so, never the factors.
"""

# I width in, O width out

import functools
from typing import Any

from gpu_jobs.posttrain.lora import blocks_of, is_cosmos3
from worldloop.errors import MalformedRecordError

FP8 = "fp8"
_MULTIPLE = 16  # sides of the matrices that the kernels take, and tokens, which gradients of weights sum over


def check_device(device: str) -> None:
    """Refuse a machine that cannot train in FP8, before anything is loaded.

    Args:
        device: `cpu` or `cuda:<n>`.

    Raises:
        MalformedRecordError: If it is no GPU with FP8.
        MissingExtraError: If transformer_engine is not installed.
    """
    import torch

    from gpu_jobs.cosmos_generate.speed import te
    from gpu_jobs.cosmos_generate.speed.fp8 import FIRST_CAPABILITY

    on_gpu = device != "cpu"
    if not on_gpu or torch.cuda.get_device_capability(device) < FIRST_CAPABILITY:
        raise MalformedRecordError(
            "precision of a training",
            f"'{FP8}' on {torch.cuda.get_device_name(device) if on_gpu else 'a CPU'}",
            "a CUDA GPU of the Ada or Hopper generation or later",
            "Train with precision 'bf16' there.",
        )
    te.import_te()


def swap(transformer: Any) -> list[tuple[Any, str, Any]]:
    """Have the large linear layers of the blocks computed in FP8; their parameters stay the same objects.

    Args:
        transformer: With its adapter, if it has one.

    Returns:
        What `restore` takes.
    """
    done = []
    for name, layer in _large(transformer).items():
        parent, _, last = name.rpartition(".")
        owner = transformer.get_submodule(parent)
        setattr(owner, last, _eight(layer))
        done.append((owner, last, layer))
    return done


def restore(done: list[tuple[Any, str, Any]]) -> None:
    """Take back what `swap` did."""
    for owner, last, layer in done:
        setattr(owner, last, layer)


def _large(transformer: Any) -> dict[str, Any]:
    """Linear layers of the blocks by name, but for those of norms, which see one row a window."""
    import torch

    from gpu_jobs.posttrain.cosmos3 import is_generators

    blocks = {id(one) for block in blocks_of(transformer) for one in block.modules()}
    cosmos3 = is_cosmos3(transformer)
    return {
        name: layer
        for name, layer in transformer.named_modules()
        if id(layer) in blocks
        and isinstance(layer, torch.nn.Linear)
        and "norm" not in name
        and not (layer.in_features % _MULTIPLE or layer.out_features % _MULTIPLE)
        and (not cosmos3 or is_generators(f"{name.removesuffix('.base_layer')}.weight"))
    }


def _eight(layer: Any) -> Any:
    """A linear layer of Transformer Engine with the parameters of another."""
    eight = _layer_class()(
        layer.in_features,
        layer.out_features,
        bias=layer.bias is not None,
        params_dtype=layer.weight.dtype,
        device=layer.weight.device,
    )
    eight.weight = layer.weight
    if layer.bias is not None:
        eight.bias = layer.bias
    return eight


@functools.cache
def _layer_class() -> Any:
    from torch.nn import functional

    from gpu_jobs.cosmos_generate.speed import te

    class EightBitLinear(te.import_te().Linear):  # type: ignore[misc]
        """`te.Linear` in a context of its own, so that activations that are computed again are in FP8 too."""

        def forward(self, x: Any) -> Any:
            """The product; of as many rows as no kernel takes, in the precision of the weights."""
            if x[..., 0].numel() % _MULTIPLE:
                return functional.linear(x, self.weight, self.bias)
            with te.linears_in_fp8():
                return super().forward(x)

    return EightBitLinear
