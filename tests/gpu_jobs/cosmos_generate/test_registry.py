import dataclasses
import subprocess
import sys

import pytest

from gpu_jobs.cosmos_generate.backends.registry import BACKENDS, load_model
from gpu_jobs.cosmos_generate.tiny import write_tiny_checkpoint
from tests.gpu_jobs.cosmos_generate.tiny_worlds import denoise, request
from worldloop.cosmos.families import FAMILIES
from worldloop.cosmos.models import model
from worldloop.errors import UnknownKeyError

TEXT = "Tiny-Cosmos-1.0-Text2World"


def load(asked, checkpoint_dir):
    import torch

    return load_model(asked, checkpoint_dir, dtype=torch.float32, device="cpu")


def test_every_family_has_a_backend():
    assert set(BACKENDS) == set(FAMILIES)


def test_predict1_is_loaded_as_cosmos1(tmp_path):
    write_tiny_checkpoint(TEXT, tmp_path)
    world = load(dataclasses.replace(model(TEXT), family="predict1"), tmp_path)
    assert world.family.key == "predict1"
    assert denoise(world, [request()])[1][0].shape == (9, 48, 64, 3)


def test_a_family_without_backend_is_named(tmp_path):
    with pytest.raises(UnknownKeyError, match="predict9"):
        load(dataclasses.replace(model(TEXT), family="predict9"), tmp_path)


def test_the_registry_imports_no_network_before_it_is_asked():
    code = "import gpu_jobs.cosmos_generate.backends.registry, sys; print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"
