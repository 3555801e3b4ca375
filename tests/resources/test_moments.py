"""Which optimizer's state a training goes on from: that of the site's newest delta in what is started from."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from resources.moments import carried_moments, keep_moments
from resources.round_files import publish_adapter, publish_round_plan
from resources.site_store import SiteStore
from tests.resources.test_round_files import DELTA_FILE, adapter, record
from tests.sensors.rounds import round_plan
from worldloop import layout
from worldloop.federation.adapters import adapter_bytes
from worldloop.federation.moments import untouched
from worldloop.federation.rounds import Base


def state(value, tensors=None):
    """The state of an optimizer after `value` steps."""
    return {
        name: np.full(each.shape, value, np.float32)
        for name, each in untouched(tensors or adapter()).items()
    }


class Line:
    """A coordinator and one site whose rounds accept whatever it sends."""

    def __init__(self, folder):
        self.store = SiteStore(url=str(folder / "site"))
        self.own = SiteStore(url=str(folder / "aws"))
        self.left = folder / "moments.safetensors"

    def plan(self, key, base="", revision="tiny", **training):
        plan = round_plan(key, base=Base("Tiny", revision, adapter=base))
        return replace(plan, training=replace(plan.training, keep_optimizer=True, **training))

    def send(self, key, value, *, base="", delta_file=DELTA_FILE, sent=DELTA_FILE):
        plan = self.plan(key, base)
        publish_round_plan(self.store, plan)
        self.left.write_bytes(adapter_bytes(state(value)))
        keep_moments(self.own, plan, delta_file, self.left)
        sha256 = hashlib.sha256(sent).hexdigest()
        publish_adapter(self.store, record(key, content_sha256=sha256), adapter(), {})

    def carried(self, base, site="aws", tensors=None, **changes):
        """Steps of the state that a next round goes on from, and why one was dropped."""
        plan = self.plan("r0009", base, **changes)
        found, why = carried_moments(self.own, self.store, plan, site, adapter=tensors or adapter())
        return (float(found["layer.lora_A.weight.step"]) if found else None), why


@pytest.fixture
def line(tmp_path):
    found = Line(tmp_path)
    found.send("r0001", 5.0)
    found.send("r0002", 10.0, base="r0001")
    return found


def test_the_state_of_the_base_is_carried(line):
    assert line.carried("r0002") == (10.0, "")


def test_a_refused_round_is_rolled_back_with_its_state(line):
    assert line.carried("r0001") == (5.0, "")


def test_a_new_adapter_and_a_site_that_took_no_part_begin_anew(line):
    assert line.carried("") == (None, "")
    assert line.carried("r0002", site="gcp") == (None, "")


def test_a_state_whose_delta_was_never_sent_is_dropped(line):
    line.send("r0003", 15.0, base="r0002", delta_file=b"another attempt")
    assert line.carried("r0003") == (None, "that of r0003 belongs to a delta that was not sent")


@pytest.mark.parametrize(
    "changes",
    [{"rank": 4}, {"targets": ("to_q",)}, {"alpha": 1.0}, {"first_blocks": 1}, {"revision": "x"}],
)
def test_a_state_of_another_rank_target_or_base_is_dropped(line, changes):
    steps, why = line.carried("r0002", **changes)
    assert steps is None
    assert "base, rank, alpha or targets are not those of r0002" in why


def test_a_state_that_fits_other_tensors_is_dropped(line):
    steps, why = line.carried("r0002", tensors={"layer.lora_A.weight": np.ones((4, 3), "f4")})
    assert steps is None
    assert "that of r0002 does not fit" in why


@pytest.mark.parametrize("damage", [b"", b"\x08\0\0\0\0\0\0\0{}", b"no safetensors"])
def test_a_damaged_state_is_dropped_with_its_name(line, damage):
    line.own.put(layout.moments_key("r0002"), damage)
    steps, why = line.carried("r0002")
    assert steps is None
    assert "r0002" in why


def test_the_same_state_of_the_same_delta_has_the_same_bytes(line):
    before = line.own.get(layout.moments_key("r0002"))
    line.send("r0002", 10.0, base="r0001")
    assert line.own.get(layout.moments_key("r0002")) == before


def test_a_site_that_trained_nothing_keeps_nothing_of_a_killed_attempt(line):
    line.left.unlink()
    assert keep_moments(line.own, line.plan("r0002"), DELTA_FILE, line.left) == 0
    assert not line.own.exists(layout.moments_key("r0002"))
