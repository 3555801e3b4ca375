import math

import pytest

from gpu_jobs.train_world_model import recipes
from gpu_jobs.train_world_model.autoencoder import to_model_range
from gpu_jobs.train_world_model.components import principal_components, start_from_components
from gpu_jobs.train_world_model.model import (
    SIGMA_DATA,
    SIGMA_MAX,
    Averages,
    NoiseLevels,
    build_autoencoder,
    build_transformer,
    denoising_loss,
    encode_captions,
)

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def transformer():
    torch.manual_seed(0)
    return build_transformer(recipes.tiny("", "").transformer)


def loss_of(network, latent, seed=0):
    context = torch.zeros(len(latent), 8, 16)
    generator = torch.Generator().manual_seed(seed)
    return denoising_loss(
        network, latent, context, frame_size=(32, 64), rate_fps=24, generator=generator
    )


def test_predicting_nothing_costs_one_at_every_noise_level(transformer):
    latent = SIGMA_DATA * torch.randn(32, 16, 3, 8, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert float(loss_of(transformer, latent)) == pytest.approx(1.0, abs=0.02)


def test_the_loss_is_that_of_the_scheduler_which_samples(transformer):
    from diffusers import EDMEulerScheduler

    latent = SIGMA_DATA * torch.ones(1, 16, 1, 8, 16)
    sigma = NoiseLevels().draw(1, latent_frames=1, generator=torch.Generator().manual_seed(5))
    seen = {}

    def network(**inputs):
        seen.update(inputs)
        return (torch.full_like(latent, 0.3),)

    loss = loss_of(network, latent, seed=5)
    scheduler = EDMEulerScheduler(sigma_data=SIGMA_DATA)
    noisy = seen["hidden_states"] / scheduler._get_conditioning_c_in(sigma)
    clean = scheduler.precondition_outputs(noisy, torch.full_like(latent, 0.3), sigma)
    weight = (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2
    assert float(loss) == pytest.approx(float(weight * (clean - latent).square().mean()), rel=1e-4)
    assert torch.allclose(seen["timestep"], scheduler.precondition_noise(sigma))


def test_longer_clips_are_noisier_by_the_root_of_their_length():
    one, many = (
        NoiseLevels().draw(4001, latent_frames=t, generator=torch.Generator().manual_seed(2))
        for t in (1, 16)
    )
    assert float(one.median()) == pytest.approx(1.0, rel=0.1)
    assert float(many.median() / one.median()) == pytest.approx(math.sqrt(16), rel=1e-2)
    assert float(many.max()) <= SIGMA_MAX


def test_noise_levels_of_a_band_stay_in_it_and_bands_share_all_levels():
    levels, generator = NoiseLevels(-0.4, 1.4), torch.Generator().manual_seed(6)
    drawn = NoiseLevels(-0.4, 1.4, 0.5, 2.0).draw(500, latent_frames=4, generator=generator)
    assert float(drawn.min()) >= 0.5
    assert float(drawn.max()) <= 2.0
    assert float(drawn.std()) > 0.3
    bands = [(0.0002, 0.5), (0.5, 2.0), (2.0, 80.0)]
    assert sum(levels.share(4, *band) for band in bands) == pytest.approx(1.0, abs=1e-2)


def test_a_teacher_that_answers_the_same_costs_nothing(transformer):
    latent = SIGMA_DATA * torch.randn(2, 16, 1, 8, 16, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(0)
    shown = {"frame_size": (32, 64), "rate_fps": 24, "generator": generator}
    context = torch.zeros(2, 8, 16)
    with torch.no_grad():
        loss = denoising_loss(transformer, latent, context, teacher=transformer, **shown)
    assert float(loss) == 0


def test_a_new_transformer_can_learn_through_its_gates(transformer):
    latent = SIGMA_DATA * torch.randn(2, 16, 1, 8, 16, generator=torch.Generator().manual_seed(3))
    loss_of(transformer, latent).backward()
    grad = transformer.proj_out.weight.grad
    assert torch.isfinite(grad).all()
    assert grad.abs().max() > 0
    transformer.zero_grad()


def test_context_is_zero_after_the_end_of_a_caption():
    class Encoder:
        def __call__(self, ids, attention_mask):
            return type("Out", (), {"last_hidden_state": torch.ones(*ids.shape, 4)})

    mask = torch.tensor([[True, True, False]])
    context = encode_captions(Encoder(), torch.zeros(1, 3, dtype=torch.long), mask, length=5)
    assert context.sum(dim=-1).tolist() == [[4, 4, 0, 0, 0]]


def test_averages_follow_the_weights_and_survive_saving():
    layer = torch.nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(0.0)
    averages = Averages({"layer": layer}, decay=0.5)
    layer.weight.data.fill_(1.0)
    averages.update()
    saved = averages.state_dict()
    other = Averages({"layer": layer}, decay=0.5)
    other.load_state_dict(saved)
    other.apply()
    assert layer.weight.item() == pytest.approx(1 - 2 / 11)


def test_a_new_autoencoder_codes_the_principal_components_of_its_footage():
    torch.manual_seed(0)
    network = build_autoencoder(recipes.tiny("", "").autoencoder)
    rng = torch.Generator().manual_seed(4)
    coarse = torch.randn(3, 3, 5, 8, 16, generator=rng) / 3
    video = torch.nn.functional.interpolate(coarse, size=(9, 32, 64), mode="trilinear")
    start_from_components(network, [clip[None] for clip in video])
    with torch.no_grad():
        latent = network.encode(video).latent_dist.mode()
        given = network.decode(latent).sample
        blocks = network.encoder.patch_embed(video).movedim(1, -1)
        mean, components, std = principal_components(
            network.encoder.patch_embed, [clip[None] for clip in video], count=16
        )
        coded = ((blocks - mean) @ components.t() / std).movedim(-1, 1)
    assert torch.allclose(latent, coded, atol=0.1)
    assert float(latent.std()) == pytest.approx(1.0, abs=0.05)
    assert float((given - video).square().mean()) < 0.1 * float(video.var())


def test_footage_enters_the_model_between_minus_one_and_one():
    frames = torch.tensor([0, 255, 51], dtype=torch.uint8).view(1, 1, 1, 1, 3)
    assert to_model_range(frames).flatten().tolist() == pytest.approx([-1.0, 1.0, -0.6])
