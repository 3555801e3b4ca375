"""Control branches of Cosmos-1.0, from files in the layout of Transfer1."""

from pathlib import Path

import pytest

from gpu_jobs.common.torch_ops import import_diffusers
from worldloop.errors import MalformedRecordError


@pytest.fixture(scope="module")
def base():
    import torch

    from gpu_jobs.cosmos_generate.tiny.predict25 import livened

    torch.manual_seed(3)
    settings = {"in_channels": 17, "num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 3,
                "text_embed_dim": 16, "adaln_lora_dim": 8, "max_size": (16, 16, 16)}  # fmt: skip
    return livened(import_diffusers().CosmosTransformer3DModel(**settings)).eval()


def new_branch(base, num_blocks: int = 2):
    import torch

    from gpu_jobs.cosmos_generate.backends.control1 import ControlBranch
    from gpu_jobs.cosmos_generate.tiny.predict25 import livened

    torch.manual_seed(4)
    return livened(ControlBranch(base.config, num_blocks=num_blocks, hint_channels=24)).eval()


def saved(branch, path: Path, num_blocks: int = 2, **extra) -> Path:
    import torch

    from gpu_jobs.cosmos_generate.backends.control1 import branch_key_map

    state = branch.state_dict()
    named = {f"net.{theirs}": state[ours] for ours, theirs in branch_key_map(num_blocks).items()}
    more = {"net.final_layer.linear.weight": torch.ones(2), "net.pos_embedder.seq": torch.ones(2)}
    torch.save({**named, **more, **extra}, path)
    return path.parent


def inputs(batch: int = 1) -> dict:
    import torch

    generator = torch.Generator().manual_seed(8)
    return {
        "hidden_states": torch.randn(batch, 16, 2, 4, 4, generator=generator),
        "timestep": torch.full((batch,), 0.3),
        "encoder_hidden_states": torch.randn(batch, 5, 16, generator=generator),
        "condition_mask": torch.zeros(batch, 1, 2, 4, 4),
        "padding_mask": torch.zeros(1, 1, 32, 32),
        "fps": 24,
    }


def said(base, *pairs, batch: int = 1):
    """The controlled output for (branch, weights) pairs, all with the same control video."""
    import torch

    from gpu_jobs.cosmos_generate.backends.control1 import ControlledTransformer, Guide1

    hint = torch.randn(1, 16, 2, 4, 4, generator=torch.Generator().manual_seed(9))
    guides = [
        Guide1(branch, weights, hint.expand(batch, -1, -1, -1, -1)) for branch, weights in pairs
    ]
    with torch.no_grad():
        return ControlledTransformer(base, guides)(**inputs(batch))[0]


def test_a_branch_is_read_name_by_name(base, tmp_path: Path) -> None:
    import torch

    from gpu_jobs.cosmos_generate.backends.control1 import load_branch

    branch = new_branch(base)
    folder = saved(branch, tmp_path / "edge_control.pt")
    loaded = load_branch(folder, "edge", base, torch.float32)
    ours, theirs = loaded.state_dict(), branch.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert loaded.hint_channels == 24


def test_weight_zero_is_the_base_model_and_one_is_not(base) -> None:
    import torch

    branch = new_branch(base)
    with torch.no_grad():
        alone = base(**inputs(), return_dict=False)[0]
    assert torch.equal(said(base, (branch, (0.0,))), alone)
    assert not torch.allclose(said(base, (branch, (1.0,))), alone, atol=1e-3)


def test_two_halves_of_a_control_are_the_whole(base) -> None:
    import torch

    branch = new_branch(base)
    halves = said(base, (branch, (0.5,)), (branch, (0.5,)))
    assert torch.allclose(halves, said(base, (branch, (1.0,))), atol=1e-5)


def test_clips_of_a_batch_have_weights_of_their_own(base) -> None:
    import torch

    branch = new_branch(base)
    both = said(base, (branch, (1.0, 0.0)), batch=2)
    with torch.no_grad():
        free = base(**inputs(2), return_dict=False)[0]
    assert torch.allclose(both[1], free[1], atol=1e-5)
    assert not torch.allclose(both[0], free[0], atol=1e-3)


def test_a_branch_that_copies_the_base_adds_the_states_of_its_blocks(base) -> None:
    import torch

    branch = new_branch(base, num_blocks=3)
    base_state = base.state_dict()
    copied = {name: base_state[name.replace("blocks.", "transformer_blocks.", 1) if name.startswith("blocks.") else name]
              for name in branch.state_dict()
              if name.startswith(("blocks.", "patch_embed.", "time_embed.", "learnable_pos_embed."))}  # fmt: skip
    branch.load_state_dict(copied, strict=False)
    for name, parameter in branch.named_parameters():
        if name.startswith("hint_block."):
            torch.nn.init.zeros_(parameter)
        if name.startswith("zero_blocks."):
            torch.nn.init.eye_(parameter) if parameter.ndim == 2 else torch.nn.init.zeros_(
                parameter
            )
    states = []
    hooks = [
        block.register_forward_hook(lambda m, i, out: states.append(out.clone()))
        for block in base.transformer_blocks
    ]
    with torch.no_grad():
        base(**inputs())
        added = branch(torch.zeros(1, 16, 2, 4, 4), **inputs())
    for hook in hooks:
        hook.remove()
    assert len(added) == len(states) == 3
    assert all(torch.allclose(a, s, atol=1e-6) for a, s in zip(added, states, strict=True))


def test_control_models_that_do_not_fit_are_refused(base, tmp_path: Path) -> None:
    import torch

    from gpu_jobs.cosmos_generate.backends.control1 import load_branch

    with pytest.raises(MalformedRecordError, match=r"edge_control\.pt, or one \.pt file"):
        load_branch(tmp_path, "edge", base, torch.float32)
    wrong = {"net.x_embedder.proj.1.weight": torch.ones(8, 72)}
    saved(new_branch(base), tmp_path / "vis_control.pt", **wrong)
    with pytest.raises(MalformedRecordError, match=r"found \(8, 72\), expected \(32, 72\)"):
        load_branch(tmp_path, "blur", base, torch.float32)
    (tmp_path / "more").mkdir()
    folder = saved(new_branch(base), tmp_path / "more" / "any.pt", **{"net.fresh": torch.ones(1)})
    with pytest.raises(MalformedRecordError, match=r"1 left over \['fresh'\]"):
        load_branch(folder, "depth", base, torch.float32)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory):
    """A tiny Video2World model and the folder of a control model that fits it."""
    import torch

    from gpu_jobs.cosmos_generate.backends.registry import load_model
    from gpu_jobs.cosmos_generate.tiny.cosmos1 import write_tiny_video2world
    from worldloop.cosmos.models import model

    name, folder = "Tiny-Cosmos-1.0-Video2World", tmp_path_factory.mktemp("checkpoints")
    write_tiny_video2world(folder / name)
    loaded = load_model(model(name), folder, dtype=torch.float32, device=torch.device("cpu"))
    branch = new_branch(loaded.parts["transformer"], num_blocks=1)
    (folder / "ctrl").mkdir()
    saved(branch, folder / "ctrl" / "edge_control.pt", num_blocks=1)
    return loaded, folder / "ctrl"


def frames_of(world, folder: Path | str, weight: float | None):
    """Frames of a clip with an edge control of a weight, or without one."""
    import numpy as np
    import torch

    from gpu_jobs.cosmos_generate.backends.control1 import controlled
    from gpu_jobs.cosmos_generate.protocol import DenoiseOptions, Media
    from worldloop.cosmos.families import ClipShape
    from worldloop.cosmos.requests import ClipRequest, Control

    rng = np.random.default_rng(2)
    seen, video = (rng.integers(0, 256, (n, 32, 32, 3), np.uint8) for n in (1, 9))
    controls = () if weight is None else (Control("edge", weight=weight, model_dir=str(folder)),)
    request = ClipRequest("a", "p", seed=3, controls=controls)
    media = [Media(frames=seen, controls={"edge": video} if controls else {})]
    options = DenoiseOptions(ClipShape(9, 32, 32, 24), 2, 7.0, "edm_euler")
    device = torch.device("cpu")
    denoising = world.begin(
        [request], [world.encode("p", "n")], options, device=device, media=media
    )
    denoising.denoiser.transformer = controlled(world, [request], media, device=device)
    for index in range(denoising.num_steps):
        denoising.step(index)
    return world.decode(denoising.latents()[0], request, options).frames


def test_a_clip_follows_its_control_and_weight_zero_changes_no_bit(world) -> None:
    import numpy as np

    model, folder = world
    free = frames_of(model, folder, None)
    assert np.array_equal(frames_of(model, folder, 0.0), free)
    assert not np.array_equal(frames_of(model, folder, 1.0), free)


def test_a_control_without_a_model_folder_is_refused(world) -> None:
    with pytest.raises(MalformedRecordError, match="one for every control input"):
        frames_of(world[0], "", 1.0)
