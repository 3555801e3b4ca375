import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save

from worldloop.errors import MalformedRecordError
from worldloop.federation import adapters
from worldloop.federation.adapters import (
    DOWN,
    UP,
    adapter_bytes,
    adapter_sha256,
    check_alike,
    difference,
    initial_adapter,
    initial_factor,
    norm,
    read_adapter,
    start_from_shapes,
)

LAYERS = {"blocks.0.attn1.to_q": (24, 16), "blocks.0.ff.net.2": (16, 64)}
ARRAYS = st.dictionaries(
    st.text("abc.", min_size=1, max_size=5),
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=4)),
    min_size=1,
    max_size=3,
)


def test_a_new_adapter_changes_nothing():
    adapter = initial_adapter(7, LAYERS, rank=4)

    for layer, (num_out, num_in) in LAYERS.items():
        change = adapter[layer + UP] @ adapter[layer + DOWN]
        assert change.shape == (num_out, num_in)
        assert not change.any()


def test_the_first_factor_is_uniform_within_kaimings_bound():
    factor = initial_factor(7, "layer", (64, 400))

    bound = 1 / math.sqrt(400)
    assert 0.99 * bound < np.abs(factor).max() <= bound
    assert factor.std() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert factor.dtype == np.float32


def test_layers_and_seeds_draw_apart_and_other_layers_move_nothing():
    last = {"blocks.0.ff.net.2": LAYERS["blocks.0.ff.net.2"]}
    both, one = initial_adapter(7, LAYERS, 4), initial_adapter(7, last, 4)

    name = "blocks.0.ff.net.2" + DOWN
    np.testing.assert_array_equal(both[name], one[name])
    assert (both[name] != initial_adapter(8, LAYERS, 4)[name]).any()


def test_every_site_starts_from_the_same_bytes():
    code = (
        "from worldloop.federation.adapters import *;"
        f"print(adapter_sha256(initial_adapter(7, {LAYERS}, 4)))"
    )

    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert other.stdout.strip() == adapter_sha256(initial_adapter(7, LAYERS, 4))


def test_a_start_is_rebuilt_from_the_shapes_of_a_delta():
    start = initial_adapter(7, LAYERS, rank=4)

    rebuilt = start_from_shapes(7, {name: each.shape for name, each in start.items()})

    assert adapter_sha256(rebuilt) == adapter_sha256(start)


@pytest.mark.parametrize(("name", "shape"), [("layer.weight", (4, 4)), ("layer" + DOWN, (4,))])
def test_what_is_no_factor_has_no_start(name, shape):
    with pytest.raises(MalformedRecordError, match="tensor of an adapter"):
        start_from_shapes(7, {name: shape})


def test_the_difference_added_to_the_start_is_the_end():
    start, end = initial_adapter(7, LAYERS, 4), initial_adapter(8, LAYERS, 4)

    delta = difference(end, start)

    for name in start:
        np.testing.assert_allclose(start[name] + delta[name], end[name], rtol=1e-6, atol=1e-7)


def test_adapters_of_another_rank_are_told_apart_by_name_and_shape():
    two, four = initial_adapter(7, LAYERS, 2), initial_adapter(7, LAYERS, 4)

    with pytest.raises(MalformedRecordError, match=r"to_q.lora_A.weight': \(2, 16\)") as refused:
        check_alike(two, four)
    assert "(4, 16)" in refused.value.expected


def test_a_length_is_summed_in_float64():
    arrays = {"a": np.full(1 << 20, 1e-4, np.float32), "b": np.float32([1e4])}

    assert norm(arrays) == pytest.approx(math.sqrt(1e8 + (1 << 20) * 1e-8), rel=1e-12)


@given(ARRAYS)
def test_a_file_gives_the_arrays_back_bit_for_bit(arrays):
    content = adapter_bytes(arrays)
    found = read_adapter(content)

    assert {name: each.shape for name, each in found.items()} == {
        name: each.shape for name, each in arrays.items()
    }
    assert all(found[name].tobytes() == arrays[name].tobytes() for name in arrays)
    assert adapter_bytes(dict(reversed(arrays.items()))) == content


def test_a_file_on_disk_and_other_precisions_are_read_as_float32(tmp_path):
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(save({"a": np.float16([0.5, 2.0])}))

    found = read_adapter(path)["a"]

    assert found.dtype == np.float32
    assert found.tolist() == [0.5, 2.0]


@pytest.mark.parametrize(
    "content", [b"", b"no adapter", adapter_bytes(initial_adapter(1, LAYERS, 2))[:-3]]
)
def test_what_is_no_adapter_is_refused_in_one_line(content):
    with pytest.raises(MalformedRecordError, match="expected a safetensors file"):
        read_adapter(content)


@pytest.mark.parametrize("change", ["number", "name", "shape"])
def test_a_hash_depends_on_numbers_names_and_shapes(change):
    arrays = {"a": np.arange(6, dtype=np.float32)}
    others = {
        "number": {"a": np.float32([0, 1, 2, 3, 4, 6])},
        "name": {"b": arrays["a"]},
        "shape": {"a": arrays["a"].reshape(2, 3)},
    }

    assert adapter_sha256(arrays) != adapter_sha256(others[change])


def test_memory_order_is_no_part_of_an_adapter():
    square = np.arange(6, dtype=np.float32).reshape(2, 3)
    fortran = {"a": np.asfortranarray(square)}

    assert adapters.adapter_sha256(fortran) == adapter_sha256({"a": square})
    assert adapter_bytes(fortran) == adapter_bytes({"a": square})
