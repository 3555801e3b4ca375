import importlib.util

import pytest

from gpu_jobs.common.torch_ops import import_open_clip
from worldloop.errors import JobFailedError


def test_open_clip_loads_beside_any_torchvision():
    import torch

    assert import_open_clip().ClipLoss
    assert hasattr(torch.ops.torchvision, "nms")


def test_a_missing_package_says_how_to_install_it(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torchvision" else find(name)
    )
    with pytest.raises(JobFailedError, match="pip install --no-deps torchvision"):
        import_open_clip()
