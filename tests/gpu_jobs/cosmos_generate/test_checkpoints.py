"""Every layout of a checkpoint gives the tensors of one diffusers model, or one clear error."""

from dataclasses import replace
from pathlib import Path

import pytest

from gpu_jobs.common.torch_ops import import_diffusers
from gpu_jobs.cosmos_generate.checkpoints import load_transformer
from gpu_jobs.cosmos_generate.checkpoints.configs import COSMOS1, PREDICT2
from gpu_jobs.cosmos_generate.checkpoints.jit_tokenizer import load_jit_tokenizer
from gpu_jobs.cosmos_generate.checkpoints.nemo import BLOCK
from gpu_jobs.cosmos_generate.checkpoints.original import TOP_COSMOS1, key_map
from worldloop.cosmos.models import model
from worldloop.errors import MalformedRecordError

COSMOS1_NAME, PREDICT2_NAME = "Tiny-Cosmos-1.0-Text2World", "Tiny-Cosmos-Predict2-Video2World"
SMALL = {
    "num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2, "text_embed_dim": 16,
    "adaln_lora_dim": 8, "max_size": (16, 16, 16),
}  # fmt: skip


def transformer(name: str, **changes):
    """A random transformer of a tiny model of the registry."""
    import torch

    from gpu_jobs.cosmos_generate.tiny.predict25 import livened

    one = model(name)
    kinds = {
        "cosmos1": {"extra_pos_embed_type": "learnable"},
        "predict2": {"extra_pos_embed_type": None},
        "predict2.5": {"extra_pos_embed_type": None, "use_crossattn_projection": True,
                       "crossattn_proj_in_channels": 32, "encoder_hidden_states_channels": 16},
        "transfer2.5": {"extra_pos_embed_type": None, "img_context_dim_in": 8,
                        "img_context_dim_out": 32, "controlnet_block_every_n": 7},
    }  # fmt: skip
    channels = 16 if one.task.startswith("text2") else 17
    torch.manual_seed(5)
    cls = import_diffusers().CosmosTransformer3DModel
    return livened(cls(**{**SMALL, "in_channels": channels, **kinds[one.family], **changes}))


def original(net, layout: str, *, extra: bool = True) -> dict:
    """Its tensors by the makers' names, with what else their files hold."""
    import torch

    state = net.state_dict()
    block0 = {k: v for k, v in state.items() if k.startswith("transformer_blocks.0.attn2.q_img")}
    optional = [k for k in state if k.startswith(("crossattn_proj", "img_context_proj"))]
    present = [*optional, *(["blocks.0.cross_attn.q_img.weight"] if block0 else [])]
    names = key_map(layout, num_layers=len(net.transformer_blocks), present=present)
    saved = {f"net.{theirs}": state[ours].clone() for ours, theirs in names.items()}
    if extra:
        saved |= {"net.pos_embedder.seq": torch.arange(4), "logvar.0.freqs": torch.ones(2)}
    return saved


def save(state, path: Path) -> Path:
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    return path.parent


def same(left, right) -> bool:
    import torch

    a, b = left.state_dict(), right.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def load(folder: Path, name: str):
    import torch

    return load_transformer(folder, model(name), torch.float32)


def test_diffusers_folders_are_read_with_and_without_their_parent(tmp_path: Path) -> None:
    net = transformer(COSMOS1_NAME)
    net.save_pretrained(tmp_path / "pipe" / "transformer")
    assert same(load(tmp_path / "pipe", COSMOS1_NAME), net)
    assert same(load(tmp_path / "pipe" / "transformer", COSMOS1_NAME), net)


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        (COSMOS1_NAME, COSMOS1),
        ("Tiny-Cosmos-1.0-Video2World", COSMOS1),
        (PREDICT2_NAME, PREDICT2),
        ("Tiny-Cosmos-Predict2-Text2Image", PREDICT2),
        ("Tiny-Cosmos-Predict2.5", PREDICT2),
        ("Tiny-Cosmos-Transfer2.5", PREDICT2),
    ],
)
def test_original_files_are_mapped_name_by_name(tmp_path: Path, name: str, layout: str) -> None:
    net = transformer(name)
    loaded = load(save(original(net, layout), tmp_path / "m" / "model.pt"), name)
    assert same(loaded, net)
    wanted = {
        k: v
        for k, v in net.config.items()
        if not k.startswith("_") and k not in ("rope_scale", "max_size")
    }
    assert {key: loaded.config[key] for key in wanted} == {**wanted, "patch_size": (1, 2, 2)}


class Kept(dict):
    """diffusers empties a checkpoint before it looks which layout it has, so that Cosmos-1.0 is not recognised."""

    def pop(self, key):
        return self[key]


@pytest.mark.parametrize(("name", "layout"), [(COSMOS1_NAME, COSMOS1), (PREDICT2_NAME, PREDICT2)])
def test_our_map_agrees_with_the_conversion_of_diffusers(tmp_path: Path, name, layout) -> None:
    import torch

    import_diffusers()
    from diffusers.loaders.single_file_utils import (
        convert_cosmos_transformer_checkpoint_to_diffusers,
    )

    state = original(transformer(name), layout, extra=False)
    theirs = convert_cosmos_transformer_checkpoint_to_diffusers(Kept(state))
    ours = load(save(state, tmp_path / "m" / "model.pt"), name).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_single_files_of_predict2_load_as_in_diffusers(tmp_path: Path) -> None:
    import torch

    net = transformer(PREDICT2_NAME)
    folder = save(original(net, PREDICT2), tmp_path / "m" / "model.pt")
    net.save_config(tmp_path / "config")
    theirs = import_diffusers().CosmosTransformer3DModel.from_single_file(
        str(folder / "model.pt"), config=str(tmp_path / "config"), torch_dtype=torch.float32
    )
    assert same(load(folder, PREDICT2_NAME), theirs)


def test_published_rotary_scales_are_kept(tmp_path: Path) -> None:
    import torch

    net = transformer(PREDICT2_NAME)
    folder = save(original(net, PREDICT2), tmp_path / "m" / "model.pt")
    big = replace(model(PREDICT2_NAME), size="14B")
    scale = load_transformer(folder, big, torch.float32).config.rope_scale
    assert tuple(scale) == (20 / 24, 2.0, 2.0)


def test_precision_is_changed_except_of_positions(tmp_path: Path) -> None:
    import torch

    net = transformer(COSMOS1_NAME)
    folder = save(original(net, COSMOS1), tmp_path / "m" / "model.pt")
    loaded = load_transformer(folder, model(COSMOS1_NAME), torch.bfloat16)
    assert loaded.proj_out.weight.dtype is torch.bfloat16
    assert loaded.learnable_pos_embed.pos_emb_t.dtype is torch.float32


@pytest.mark.parametrize("kind", ["reg", "ema"])
def test_post_trained_files_are_read(tmp_path: Path, kind: str) -> None:
    net = transformer(COSMOS1_NAME)
    state = original(net, COSMOS1)
    if kind == "ema":  # averaged weights spell dots as dashes
        state = {key.replace(".", "-"): value for key, value in state.items()}
    folder = save(state, tmp_path / "m" / f"iter_000001000_{kind}_model.pt")
    assert same(load(folder, COSMOS1_NAME), net)


def test_averaged_weights_are_taken_before_regular_ones(tmp_path: Path) -> None:
    net = transformer(COSMOS1_NAME)
    regular = {key: value * 2 for key, value in original(net, COSMOS1).items()}
    save(regular, tmp_path / "m" / "iter_000001000_reg_model.pt")
    folder = save(original(net, COSMOS1), tmp_path / "m" / "iter_000001000_ema_model.pt")
    assert same(load(folder, COSMOS1_NAME), net)


def test_lora_checkpoints_with_all_weights_are_merged(tmp_path: Path) -> None:
    import torch

    net = transformer(COSMOS1_NAME)
    state = original(net, COSMOS1)
    attn = "net.blocks.block1.blocks.0.block.attn"
    down, up = torch.randn(4, 32), torch.randn(32, 4)
    state[f"{attn}.to_q_lora.net.0.weight"], state[f"{attn}.to_q_lora.net.1.weight"] = down, up
    loaded = load(
        save({"model": state, "ema": None}, tmp_path / "m" / "iter_1_model.pt"), COSMOS1_NAME
    )
    expected = net.transformer_blocks[1].attn1.to_q.weight + up @ down
    assert torch.allclose(loaded.transformer_blocks[1].attn1.to_q.weight, expected, atol=1e-6)
    assert torch.equal(
        loaded.transformer_blocks[0].attn1.to_q.weight, net.transformer_blocks[0].attn1.to_q.weight
    )


def nemo(net, *, dense: bool = False) -> dict:
    """Its tensors as NeMo's model holds them: packed by head, modulations in one, layers stacked."""
    import torch

    state, layers = net.state_dict(), range(len(net.transformer_blocks))
    saved = {f"module.{theirs}": state[ours].clone() for ours, theirs in TOP_COSMOS1.items()}

    def heads(block: int, attn: str, names: str):
        parts = [state[f"transformer_blocks.{block}.{attn}.to_{n}.weight"] for n in names]
        return torch.cat([part[16 * h : 16 * h + 16] for h in range(2) for part in parts])

    def modulation(block: int, number: int):
        parts = [
            state[f"transformer_blocks.{block}.norm{n}.linear_{number}.weight"] for n in (1, 2, 3)
        ]
        return torch.cat(parts) if number == 1 else torch.block_diag(*parts) + 0.5 * dense

    packed = {
        "full_self_attention.linear_qkv.weight": lambda b: heads(b, "attn1", "qkv"),
        "cross_attention.linear_kv.weight": lambda b: heads(b, "attn2", "kv"),
        "adaLN.adaLN_modulation.1.weight": lambda b: modulation(b, 1),
        "adaLN.adaLN_modulation.2.weight": lambda b: modulation(b, 2),
    }
    for ours, theirs in BLOCK.items():
        saved[f"module.decoder.layers.{theirs}"] = torch.stack(
            [state[f"transformer_blocks.{b}.{ours}"] for b in layers]
        )
    for theirs, of_block in packed.items():
        saved[f"module.decoder.layers.{theirs}"] = torch.stack([of_block(b) for b in layers])
    saved["module.logvar.1.weight"] = torch.ones(1, 2)
    saved["optimizer.state.exp_avg.module.x_embedder"] = torch.ones(3)
    return saved


def save_distributed(state: dict, folder: Path) -> Path:
    import torch.distributed.checkpoint as dcp

    dcp.save(state, storage_writer=dcp.FileSystemWriter(folder / "weights"), no_dist=True)
    return folder


quiet = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")


@quiet
@pytest.mark.parametrize("stacked", [True, False])
def test_nemo_checkpoints_are_unpacked(tmp_path: Path, stacked: bool) -> None:
    net = transformer(COSMOS1_NAME)
    state = nemo(net)
    if not stacked:
        mark = "module.decoder.layers."
        state = {k: v for k, v in state.items() if not k.startswith(mark)} | {
            f"{mark}{b}.{key.removeprefix(mark)}": value[b].clone()
            for key, value in state.items() if key.startswith(mark) for b in range(2)
        }  # fmt: skip
    assert same(load(save_distributed(state, tmp_path / "m"), COSMOS1_NAME), net)


@quiet
def test_modulations_that_training_mixed_compute_the_same(tmp_path: Path) -> None:
    import torch

    net = transformer(COSMOS1_NAME)
    state = nemo(net, dense=True)
    loaded = load(save_distributed(state, tmp_path / "m"), COSMOS1_NAME)
    embedded = torch.randn(1, 32)
    first = state["module.decoder.layers.adaLN.adaLN_modulation.1.weight"][1]
    second = state["module.decoder.layers.adaLN.adaLN_modulation.2.weight"][1]
    expected = (second @ (first @ embedded[0])).chunk(3)
    for part, norm in enumerate(("norm1", "norm2", "norm3")):
        one = getattr(loaded.transformer_blocks[1], norm)
        assert torch.allclose(one.linear_2(one.linear_1(embedded))[0], expected[part], atol=1e-5)
    out = net.norm_out.linear_2(net.norm_out.linear_1(embedded))
    assert torch.allclose(
        loaded.norm_out.linear_2(loaded.norm_out.linear_1(embedded)), out, atol=1e-5
    )


@quiet
def test_a_distributed_checkpoint_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    folder = save_distributed(nemo(transformer(COSMOS1_NAME)), tmp_path / "m")
    next((folder / "weights").glob("*.distcp")).unlink()
    with pytest.raises(MalformedRecordError, match="distributed checkpoint weights"):
        load(folder, COSMOS1_NAME)


def test_weights_of_another_family_size_or_task_are_refused(tmp_path: Path) -> None:
    folder = save(original(transformer(PREDICT2_NAME), PREDICT2), tmp_path / "m" / "model.pt")
    with pytest.raises(
        MalformedRecordError, match=r"found 'Predict2.*17 input.*expected Cosmos-1.0"
    ):
        load(folder, COSMOS1_NAME)
    with pytest.raises(MalformedRecordError, match=r"expected Predict2.*16 input channels"):
        load(folder, "Tiny-Cosmos-Predict2-Text2Image")
    with pytest.raises(
        MalformedRecordError, match=r"found '.*2 blocks of width 32.*28 blocks of width 2048"
    ):
        load(folder, "Cosmos-Predict2-2B-Video2World")
    transformer(PREDICT2_NAME).save_pretrained(tmp_path / "d" / "transformer")
    with pytest.raises(MalformedRecordError, match="weights in d/transformer"):
        load(tmp_path / "d", COSMOS1_NAME)


def test_missing_and_left_over_tensors_are_named(tmp_path: Path) -> None:
    import torch

    state = original(transformer(COSMOS1_NAME), COSMOS1)
    del state["net.affline_norm.weight"]
    state["net.fresh.weight"] = torch.ones(1)
    with pytest.raises(
        MalformedRecordError,
        match=r"1 tensors missing \['affline_norm.weight'\], 1 left over \['fresh",
    ):
        load(save(state, tmp_path / "m" / "model.pt"), COSMOS1_NAME)


def test_files_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    with pytest.raises(MalformedRecordError, match="worldloop models download bad"):
        load(tmp_path / "bad", COSMOS1_NAME)
    (tmp_path / "bad" / "model.pt").write_bytes(b"not a zip")
    with pytest.raises(MalformedRecordError, match=r"weights in model.pt"):
        load(tmp_path / "bad", COSMOS1_NAME)
    import torch

    with pytest.raises(MalformedRecordError, match="tensors such as"):
        load(save({"a": torch.ones(1)}, tmp_path / "other" / "model.pt"), COSMOS1_NAME)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_config_that_is_no_json_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text("{bad")
    with pytest.raises(MalformedRecordError, match=r"transformer/config\.json: found 'Expecting"):
        load(tmp_path, COSMOS1_NAME)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # the published layout
def test_the_scripted_tokenizer_runs_behind_the_interface_of_diffusers(tmp_path: Path) -> None:
    import torch

    class Half(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x[:, :1].repeat(1, 16, 1, 1, 1) / 2, x

    torch.jit.script(Half()).save(tmp_path / "encoder.jit")
    torch.jit.script(Half()).save(tmp_path / "decoder.jit")
    torch.save((torch.arange(32.0).view(16, 2), torch.ones(16, 2)), tmp_path / "mean_std.pt")
    tokenizer = load_jit_tokenizer(tmp_path, torch.float32)
    video = torch.randn(1, 3, 2, 4, 4)
    latent = tokenizer.encode(video).latent_dist.mode()
    assert torch.equal(latent[:, 3], video[:, 0] / 2)
    assert tokenizer.decode(latent, return_dict=False)[0].shape == (1, 16, 2, 4, 4)
    assert tokenizer.config.latents_mean[:3] == [0.0, 1.0, 2.0]
    (tmp_path / "decoder.jit").unlink()
    with pytest.raises(MalformedRecordError, match=r"no decoder\.jit"):
        load_jit_tokenizer(tmp_path, torch.float32)
