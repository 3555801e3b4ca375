"""FP8 and compiled blocks: refused without a GPU in one line; wired to the public interface of Transformer Engine.

Transformer Engine is a stand-in here, which multiplies as torch does and counts; no FP8 product runs.
"""

import contextlib
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gpu_jobs.cosmos_generate.speed import te
from gpu_jobs.posttrain import fp8, training
from gpu_jobs.posttrain.base import BaseKey, Bases
from gpu_jobs.posttrain.training import train, training_of
from tests.gpu_jobs.posttrain.tiny_footage import spec
from worldloop.errors import MalformedRecordError

BASES = Bases()
CALLS: list[str] = []


@contextlib.contextmanager
def in_fp8(enabled, recipe):
    CALLS.append("in")
    yield
    CALLS.append("out")


class StandInLinear(torch.nn.Linear):
    """The public arguments of `te.Linear`; a product outside of `te.autocast` is a mistake."""

    def __init__(self, in_features, out_features, bias=True, params_dtype=None, device="cuda"):
        super().__init__(in_features, out_features, bias=bias, dtype=params_dtype, device=device)

    def forward(self, x):
        assert CALLS[-1] == "in"
        return super().forward(x)


@pytest.fixture
def transformer_engine(monkeypatch):
    """In the place of the library and of a GPU that has FP8."""
    library = SimpleNamespace(Linear=StandInLinear, autocast=in_fp8)
    monkeypatch.setattr(te, "import_te", lambda: library)
    monkeypatch.setattr(te, "_linear_recipe", lambda: None)
    monkeypatch.setattr(training, "check_device", lambda device: None)
    fp8._layer_class.cache_clear()
    CALLS.clear()
    yield
    fp8._layer_class.cache_clear()


@pytest.fixture
def ask(site, checkpoint_dir, tmp_path):
    def make(name="out", **changed):
        return spec(site, checkpoint_dir, output_dir=str(tmp_path / name), training=changed)

    return make


def trained(asked):
    train(asked, lambda event: None, BASES)
    return {path.name: path.read_bytes() for path in Path(asked.output_dir).glob("*.safetensors")}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"precision": "fp8"}, "'fp8' on a CPU.*Train with precision 'bf16' there"),
        ({"compile_blocks": True}, "compile_blocks of a training: found 'true on a CPU'"),
        ({"precision": "fp4"}, "precision of a training: found 'fp4'"),
    ],
)
def test_what_needs_a_gpu_is_refused_before_anything_is_loaded(ask, changed, words):
    with pytest.raises(MalformedRecordError, match=words):
        train(ask(**changed), lambda event: None, bases := Bases())
    assert not bases._loaded


def test_sharded_weights_in_fp8_are_refused(ask):
    asked = training_of(ask(precision="fp8", mode="full"))

    with pytest.raises(MalformedRecordError, match="all weights on 2 processes"):
        training._check_device(asked, "cuda:0", num_processes=2)


@pytest.mark.parametrize("mode", ["lora", "full"])
@pytest.mark.parametrize("again", [True, False])
def test_fp8_layers_have_the_same_parameters_and_train_them(ask, transformer_engine, mode, again):
    settings = {"mode": mode, "checkpoint_blocks": again, "num_steps": 2}

    expected = trained(ask("bf16", precision="bf16", **settings))
    assert not CALLS
    found = trained(ask("fp8", precision="fp8", **settings))

    assert found == expected  # the stand-in multiplies as torch does
    assert CALLS.count("in") == CALLS.count("out") > 0


def test_the_base_is_as_it_was_after_training_in_fp8(ask, transformer_engine):
    asked = ask(precision="fp8", num_steps=1)
    base = BASES.get(BaseKey(asked.model, asked.checkpoint_dir, precision="bf16"))
    before = {name: type(layer) for name, layer in base.transformer.named_modules()}

    trained(asked)

    assert {name: type(layer) for name, layer in base.transformer.named_modules()} == before


def test_rows_that_no_kernel_takes_are_computed_as_before(transformer_engine):
    layer = torch.nn.Linear(32, 48)
    eight, x = fp8._eight(layer), torch.randn(1, 17, 32)

    torch.testing.assert_close(eight(x), layer(x))
    assert not CALLS
    eight(x[:, :16])
    assert CALLS == ["in", "out"]


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # dynamo asks inputs of blocks for it
def test_compiled_blocks_train_as_others_do_and_are_forgotten(ask, monkeypatch):
    eager = partial(torch.nn.Module.compile, backend="eager")  # traced, but no code is generated
    monkeypatch.setattr(torch.nn.Module, "compile", lambda block, **kw: eager(block, **kw))
    monkeypatch.setattr(training, "_check_device", lambda *_, **__: None)
    expected = trained(ask("plain", num_steps=1, batch_size=1))

    found = trained(ask("compiled", num_steps=1, batch_size=1, compile_blocks=True))

    base = BASES.get(BaseKey(ask().model, ask().checkpoint_dir, precision="fp32"))
    assert found == expected
    assert all(one._compiled_call_impl is None for one in base.transformer.transformer_blocks)
