"""Recipes: the trainings of the published post-training guides as specs, and a tiny one.

Numbers come from nvidia-cosmos/cosmos-predict1 (commit 5c348ca, cosmos_predict1/diffusion/training/
config/video2world/experiment.py), cosmos-predict2 (commit 661da47) and diffusers (commit 58eb52c,
examples/cosmos/train_cosmos_predict25_lora.py); those of Cosmos 3 from NVIDIA/cosmos-framework (commit
5eee9ed, examples/toml/sft_config/vision_sft_{nano,edge,super}.toml and cosmos_framework/configs/base/
experiment/sft/vision_sft_*.py). `batch_size` counts the windows of all processes.
Averages of Predict1 and Predict2 have a fixed decay, where the published trainings let it grow by a
power of the step. Their learning rates stay after warming up, because rounds go on from each other.
"""

from dataclasses import asdict, replace
from typing import Any

from gpu_jobs.posttrain.spec import PosttrainSpec
from worldloop.cosmos.families import ClipShape
from worldloop.cosmos.models import model
from worldloop.federation.rounds import COSMOS3_ATTENTION, LORA_TARGETS, Training

_Q_AND_V = ("attn1.to_q", "attn1.to_v", "attn2.to_q", "attn2.to_v")
# height and width of the guides are 720 x 1280; the autoencoder and patches take multiples of 16
_PREDICT1_SHAPE = ClipShape(121, 1280, 720, 24)
_PREDICT2_SHAPE = ClipShape(93, 1280, 704, 16)
_COSMOS3_SHAPE = ClipShape(61, 320, 192, 24)
# conditioning_config {0: 0.7, 1: 0.2, 2: 0.1} of latent frames, which are 0, 1 and 5 frames
_COSMOS3_GIVEN = (0,) * 7 + (1,) * 2 + (5,)


def predict1_video2world_lora(
    *, footage_dir: str, checkpoint_dir: str, output_dir: str, batch_size: int = 1
) -> PosttrainSpec:
    """`video2world_7b_lora_example_cosmos_nemo_assets`: q and v of both attentions, rank 8, scale 1.

    Started with `torchrun --nproc_per_node=4`, four processes with whole weights share the tokens of a
    window, as the published configuration does (ddp, context_parallel_size 4); with `batch_size` 4
    each trains a window of its own.

    Args:
        footage_dir: Folder of footage.
        checkpoint_dir: Folder of the model folders.
        output_dir: Folder for what is written.
        batch_size: Windows of a step, of all processes.
    """
    training = Training(
        shape=_PREDICT1_SHAPE,
        rank=8,
        alpha=8.0,
        targets=_Q_AND_V,
        first_blocks=28,
        num_steps=5000,
        batch_size=batch_size,
        learning_rate=1e-4,
        warmup_steps=0,
        weight_decay=0.1,
        ema_decay=0.999,
        caption_dropout=0.2,
        conditioning_frames=(0, 1, 9),
        checkpoint_blocks=True,
        start_frame_interval=1,
    )
    return _spec(
        "Cosmos-Predict1-7B-Video2World",
        training,
        footage_dir=footage_dir,
        checkpoint_dir=checkpoint_dir,
        output_dir=output_dir,
        group="diffusion_video2world",
        name="video2world_7b_lora_example_cosmos_nemo_assets",
    )


def predict1_video2world_full(
    *, footage_dir: str, checkpoint_dir: str, output_dir: str, num_gpus: int = 8
) -> PosttrainSpec:
    """`video2world_7b_example_cosmos_nemo_assets`: all weights, sharded, averaged too.

    The published file has a learning rate of 0, its comment and the other example 2 ** -14.3, which is
    taken here.

    Args:
        footage_dir: Folder of footage.
        checkpoint_dir: Folder of the model folders.
        output_dir: Folder for what is written.
        num_gpus: Processes that share a batch and the weights.
    """
    training = Training(
        shape=_PREDICT1_SHAPE,
        mode="full",
        num_steps=2000,
        batch_size=num_gpus,
        learning_rate=2**-14.3,
        warmup_steps=2500,
        weight_decay=0.1,
        ema_decay=0.999,
        caption_dropout=0.2,
        conditioning_frames=(0, 1, 9),
        checkpoint_blocks=True,
        start_frame_interval=1,
    )
    return _spec(
        "Cosmos-Predict1-7B-Video2World",
        training,
        footage_dir=footage_dir,
        checkpoint_dir=checkpoint_dir,
        output_dir=output_dir,
        group="diffusion_video2world",
        name="video2world_7b_example_cosmos_nemo_assets",
    )


def predict2_video2world_lora(
    *, footage_dir: str, checkpoint_dir: str, output_dir: str, num_gpus: int = 8
) -> PosttrainSpec:
    """`predict2_video2world_lora_training_2b_cosmos_nemo_assets`: rank 16 on attention and MLP.

    Args:
        footage_dir: Folder of footage.
        checkpoint_dir: Folder of the model folders.
        output_dir: Folder for what is written.
        num_gpus: Processes that share a batch.
    """
    training = Training(
        shape=_PREDICT2_SHAPE,
        rank=16,
        alpha=16.0,
        targets=LORA_TARGETS,
        num_steps=1000,
        batch_size=num_gpus,
        learning_rate=0.6 * 2**-14.5,
        warmup_steps=0,
        ema_decay=0.999,
        caption_dropout=0.2,
        conditioning_frames=(1, 5),
        checkpoint_blocks=True,
    )
    return _spec(
        "Cosmos-Predict2-2B-Video2World",
        training,
        footage_dir=footage_dir,
        checkpoint_dir=checkpoint_dir,
        output_dir=output_dir,
        group="video2world_lora",
        name="2b_cosmos_nemo_assets",
    )


def predict25_lora(
    *, footage_dir: str, checkpoint_dir: str, output_dir: str, num_gpus: int = 8
) -> PosttrainSpec:
    """The `train_cosmos_predict25_lora.py` of diffusers: rank 32 on attention and MLP, 432 x 768 as its guide has it.

    Args:
        footage_dir: Folder of footage.
        checkpoint_dir: Folder of the model folders.
        output_dir: Folder for what is written.
        num_gpus: Processes that share a batch.
    """
    training = Training(
        shape=ClipShape(93, 768, 432, 16),
        rank=32,
        alpha=32.0,
        targets=LORA_TARGETS,
        num_steps=1000,
        batch_size=num_gpus,
        learning_rate=0.5 * 2**-14.5,
        warmup_steps=1000,
        weight_decay=0.001,
        caption_dropout=0.2,
        conditioning_frames=(1, 5),
        checkpoint_blocks=True,
    )
    return _spec(
        "Cosmos-Predict2.5-2B",
        training,
        footage_dir=footage_dir,
        checkpoint_dir=checkpoint_dir,
        output_dir=output_dir,
        group="predict25_lora",
        name="2b_cosmos_nemo_assets",
    )


def cosmos3_nano(
    *, footage_dir: str, checkpoint_dir: str, output_dir: str, num_gpus: int = 8
) -> PosttrainSpec:
    """`vision_sft_nano`: all weights of Nano's generator, at 256p.

    Windows are 61 frames, the fewest that the published loader takes, which takes each clip whole; a
    step is two windows a process where it packs clips up to 45,056 tokens twice.

    Args:
        footage_dir: Folder of footage.
        checkpoint_dir: Folder of the model folders.
        output_dir: Folder for what is written.
        num_gpus: Processes that share a batch and the weights.
    """
    return _cosmos3_full("Nano", footage_dir, checkpoint_dir, output_dir, num_gpus)


def cosmos3_edge(
    *, footage_dir: str, checkpoint_dir: str, output_dir: str, num_gpus: int = 8
) -> PosttrainSpec:
    """`vision_sft_edge`: the same for Edge, whose norm of the text's keys is trained too.

    Args:
        footage_dir: Folder of footage.
        checkpoint_dir: Folder of the model folders.
        output_dir: Folder for what is written.
        num_gpus: Processes that share a batch and the weights.
    """
    return _cosmos3_full("Edge", footage_dir, checkpoint_dir, output_dir, num_gpus)


def cosmos3_super_lora(
    *, footage_dir: str, checkpoint_dir: str, output_dir: str, num_gpus: int = 8
) -> PosttrainSpec:
    """`vision_sft_super`: rank 16, scale 2, on the attention of Super's generator, without an average.

    Args:
        footage_dir: Folder of footage.
        checkpoint_dir: Folder of the model folders.
        output_dir: Folder for what is written.
        num_gpus: Processes that share a batch, each with whole weights (128 GB in bf16); the published
            training shards them.
    """
    training = replace(
        _cosmos3_training(num_gpus),
        mode="lora",
        rank=16,
        alpha=32.0,
        targets=COSMOS3_ATTENTION,
        learning_rate=5e-4,
        ema_rate=0.0,
    )
    return _spec(
        "Cosmos3-Super",
        training,
        footage_dir=footage_dir,
        checkpoint_dir=checkpoint_dir,
        output_dir=output_dir,
        group="sft",
        name="vision_sft_super",
    )


def _cosmos3_full(
    size: str, footage_dir: str, checkpoint_dir: str, output_dir: str, num_gpus: int
) -> PosttrainSpec:
    return _spec(
        f"Cosmos3-{size}",
        _cosmos3_training(num_gpus),
        footage_dir=footage_dir,
        checkpoint_dir=checkpoint_dir,
        output_dir=output_dir,
        group="sft",
        name=f"vision_sft_{size.casefold()}",
    )


def _cosmos3_training(num_gpus: int) -> Training:
    return Training(
        shape=_COSMOS3_SHAPE,
        mode="full",
        num_steps=500,
        batch_size=2 * num_gpus,
        learning_rate=1e-4,
        warmup_steps=50,
        cosine_steps=1000,
        ema_rate=0.1,
        caption_dropout=0.1,
        conditioning_frames=_COSMOS3_GIVEN,
        checkpoint_blocks=True,
    )


def tiny(*, footage_dir: str, checkpoint_dir: str, output_dir: str) -> PosttrainSpec:
    """Seconds on a CPU, for tests: the tiny Text2World model on windows of 9 frames.

    Args:
        footage_dir: Folder of footage.
        checkpoint_dir: Folder of the model folders.
        output_dir: Folder for what is written.
    """
    training = Training(
        shape=ClipShape(9, 64, 48, 24),
        rank=2,
        alpha=2.0,
        num_steps=4,
        batch_size=2,
        learning_rate=1e-2,
        warmup_steps=1,
        precision="fp32",
    )
    return _spec(
        "Tiny-Cosmos-1.0-Text2World",
        training,
        footage_dir=footage_dir,
        checkpoint_dir=checkpoint_dir,
        output_dir=output_dir,
    )


def _spec(
    name_of_model: str,
    training: Training,
    *,
    footage_dir: str,
    checkpoint_dir: str,
    output_dir: str,
    group: str = "",
    name: str = "",
) -> PosttrainSpec:
    known = model(name_of_model)
    record: dict[str, Any] = asdict(training)
    export = {"project": "posttraining", "group": group, "name": name, "root": output_dir}
    return PosttrainSpec(
        model=known.name,
        revision=known.revision,
        checkpoint_dir=checkpoint_dir,
        footage_dir=footage_dir,
        output_dir=output_dir if not name else f"{output_dir}/{name}",
        training=record,
        seed=0,
        export=export if name else {},
    )
