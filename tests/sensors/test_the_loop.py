"""The loop by sensors alone: footage, release, round, gates, promotion, regeneration wave."""

import json

import dagster as dg
import pytest

from orchestration.jobs import (
    adapter_job,
    build_phase_job,
    city_job,
    close_job,
    delta_job,
    drift_job,
    lines_job,
    plan_job,
    round_job,
    scores_job,
    verdict_job,
)
from sensors.regeneration import build_regeneration
from sensors.retraining import build_retraining
from sensors.round_conductor import build_round_conductor
from sensors.wave_conductor import build_wave_conductor
from sensors.worse_checkpoints import build_worse_checkpoints
from tests.assets.rounds import HELD_OUT, HOMES, LOOSE, MODEL, TRAINING, Rounds
from tests.conftest import QUIET
from worldloop.cosmos.families import ClipShape
from worldloop.federation.rounds import Terms, Training, Trial
from worldloop.sites import Generation, Regeneration, Retraining, Site

pytestmark = pytest.mark.slow  # minutes of rendering, training and generating on the CPU
SETTINGS = Retraining(
    model=MODEL,
    min_new_hours=1e-6,
    num_prompts=2,
    training=Training(ClipShape(9, 64, 64, 16), **TRAINING),
    terms=Terms(quorum=2),  # the third site has no held-out city to measure on
    trial=Trial(held_out_cities=HELD_OUT, noise_levels=1, sample_steps=0, limits=LOOSE),
    regeneration=Regeneration(  # random weights make nothing that is accepted: one try is enough
        num_places=1, clips_per_place=1, tier="tiny", allow_unguarded=True, max_attempts=1
    ),
)
SKETCH = Generation(num_frames=13, width_px=96, height_px=54, num_samples=1)
SITE = Site("local", (), "site", training=SETTINGS, generation=SKETCH)


class Daemon:
    """Ticks sensors and runs what they ask for, each run key once, as Dagster's own daemon does."""

    def __init__(self, house):
        self.house, self.cursors, self.asked = house, {}, []
        self.sensors = {
            one.name: one
            for one in (
                build_retraining(round_job, drift_job, SITE),
                build_round_conductor(
                    delta_job, build_phase_job(HOMES), adapter_job, scores_job, verdict_job
                ),
                build_regeneration(plan_job, SITE),
                build_wave_conductor(city_job, close_job),
                build_worse_checkpoints(lines_job, SITE),
            )
        }

    def tick(self, name):
        """One evaluation and its runs; what it says if it asks for nothing."""
        instance, sensor = self.house.instance, self.sensors[name]
        wanted = sensor.required_resource_keys
        with dg.build_sensor_context(
            instance=instance,
            resources={key: self.house.resources[key] for key in wanted},
            cursor=self.cursors.get(name),
            sensor_name=name,
            definitions=self.house.definitions(),
        ) as context:
            result = sensor(context)
        if isinstance(result, dg.SkipReason):
            return result.skip_message
        self.cursors[name] = result.cursor
        for added in result.dynamic_partitions_requests or ():
            instance.add_dynamic_partitions(added.partitions_def_name, list(added.partition_keys))
        for request in result.run_requests or ():
            self._run(name, request)
        return "" if result.skip_reason is None else result.skip_reason.skip_message

    def until_quiet(self, name):
        """Ticks of one sensor until it asks for nothing; its last words."""
        for _ in range(10):
            words = self.tick(name)
            if words:
                return words
        raise AssertionError(f"{name} does not come to rest")

    def _run(self, name, request):
        assert request.run_key not in self.asked
        self.asked.append(request.run_key)
        job = request.job_name or self.sensors[name].job_name
        tags = {"dagster/run_key": request.run_key, "dagster/sensor_name": name, **request.tags}
        self.house.definitions().resolve_job_def(job).execute_in_process(
            instance=self.house.instance,
            partition_key=request.partition_key,
            run_config={**QUIET, **(request.run_config or {})},
            tags=tags,
            raise_on_error=False,
        )


@pytest.fixture(scope="module")
def looped(tmp_path_factory):
    """From a released wave through a round to the wave that the promoted checkpoint made."""
    with dg.DagsterInstance.ephemeral() as instance:
        house = Rounds(tmp_path_factory.mktemp("loop"), instance)
        house.film(without="")  # two sites have to score it, each by a city of its own
        house.make_model()
        daemon = Daemon(house)
        said = {}
        try:
            said["opened"] = daemon.tick("retraining")
            said["round"] = daemon.until_quiet("round_conductor")
            said["regeneration"] = daemon.tick("regeneration")
            said["wave"] = daemon.until_quiet("wave_conductor")
            said["lines"] = daemon.until_quiet("worse_checkpoints")
            yield house, daemon, said
        finally:
            house.stop_trainers()


def test_footage_becomes_a_promoted_checkpoint_without_a_hand(looped):
    house, daemon, said = looped

    assert house.outcome().outcome == "promoted", house.outcome().reason
    assert said["round"] == "No round is open."
    assert daemon.asked[:4] == [
        "r0001/plan",
        *(f"r0001/delta/{s}" for s in ("aws", "azure", "gcp")),
    ]
    assert daemon.asked[4] == "r0001/adapter"
    assert daemon.asked[8:10] == ["r0001/verdict", "regenerate:r0001"]
    assert "min_new_hours" in house.round_plan().reason
    assert house.resources["registry"].main(MODEL.lower()) == "r0001"


def test_the_promoted_checkpoint_makes_the_wave_that_replaces_footage(looped):
    house, _, said = looped

    made = house.resources["site_log"].read("generations", waves=["w0002"])

    assert said["wave"] == "No wave is open."
    assert made.height == 1
    assert "/snapshots/r0001 x 1" in made["checkpoint"][0]


def test_the_new_checkpoint_is_shown_and_kept_until_enough_clips_judge_it(looped):
    house, daemon, said = looped

    assert daemon.asked[-1] == f"show:{MODEL.lower()}:1"
    assert "r0001 is used" in said["lines"]
    assert "are needed (min_pairs)" in said["lines"]
    shown = house.metadata("checkpoint_lines")
    assert "r0001" in shown["in_use"]
    assert house.resources["registry"].main(MODEL.lower()) == "r0001"


def test_after_the_loop_every_sensor_is_at_rest_and_says_why(looped):
    house, daemon, _ = looped
    before = len(daemon.asked)

    assert "min_hours_between_rounds" in daemon.tick("retraining")
    assert daemon.tick("round_conductor") == "No round is open."
    assert "made its places anew" in daemon.tick("regeneration")
    assert "r0001 is used" in daemon.tick("worse_checkpoints")
    assert len(daemon.asked) == before
    assert json.loads(daemon.cursors["retraining"])["round"] == "r0001"
    assert house.outcome().outcome == "promoted"
