"""What the learning campaign rests on: who films what, how near clips are, how sure a mean is."""

import numpy as np
import pytest

from gpu_jobs.posttrain.spec import FootageClip
from tests.campaigns.learning import (
    CENTRAL,
    FAST,
    FEDERATED,
    KEPT,
    VARIANTS,
    Campaign,
    last_adapter,
    lost_to_central,
    numbers_of,
)
from tests.campaigns.learning_footage import (
    CITIES,
    GROUPS,
    HELD_OUT,
    INSTITUTIONS,
    KNOWN,
    NEW,
    PARTITIONS,
    SITES,
    cities_of,
    institutions_of,
)
from tests.campaigns.nearness import TRUE, Nearness, by_seed_and_prompt
from tests.campaigns.paired import crossed_interval, interval
from worldloop.atlas.atlas import load_atlas
from worldloop.federation.options import option_problems

ZOO, WARD, FAIR = (
    FootageClip(place, place, "lima", place) for place in ("zoo", "hospital", "amusement_park")
)
OTHER_ZOO = FootageClip("zoo2", "zoo2", "oslo", "zoo")


def test_every_city_is_in_one_group() -> None:
    atlas = load_atlas()
    found = [city for group in GROUPS for city in cities_of(group, atlas)]
    assert sorted(found) == sorted(atlas.cities)


@pytest.mark.parametrize("partition", PARTITIONS)
def test_sites_film_all_that_is_new_and_nothing_else(partition: str) -> None:
    filmed = [place for site in SITES for place in institutions_of(site, partition)]
    assert set(filmed) == set(NEW)
    assert set(institutions_of(HELD_OUT, partition)) == {*NEW, *KNOWN}


def test_only_the_hard_partition_gives_sites_institutions_of_their_own() -> None:
    assert all(institutions_of(site, CITIES) == NEW for site in SITES)
    of_sites = [set(institutions_of(site, INSTITUTIONS)) for site in SITES]
    assert not set.intersection(*of_sites)


def test_variants_have_options_that_their_strategies_know() -> None:
    assert not [
        problem
        for variant in VARIANTS.values()
        for problem in option_problems(variant.strategy, variant.options)
    ]


def test_seeds_are_read_as_they_are_written() -> None:
    assert numbers_of("3,5-7") == [3, 5, 6, 7]


def test_the_last_adapter_is_that_of_the_highest_round(tmp_path) -> None:
    folder = tmp_path / "work" / f"{CITIES}-{FEDERATED}-0"
    folder.mkdir(parents=True)
    for number in (2, 10, 9):
        (folder / f"adapter-{number}.safetensors").touch()
    assert last_adapter(tmp_path, CITIES, FEDERATED, 0).stem == "adapter-10"


def test_what_is_lost_is_counted_at_the_last_round_of_seeds_that_have_both() -> None:
    rows = [
        {"variant": variant, "seed": seed, "round": number, "loss": loss}
        for variant, seed, number, loss in (
            (CENTRAL, 0, 0, 0.5),
            (CENTRAL, 0, 2, 0.4),
            (FEDERATED, 0, 1, 0.47),
            (FEDERATED, 0, 2, 0.42),
            (FEDERATED, 1, 2, 0.5),
        )
    ]
    assert lost_to_central(rows, FEDERATED) == pytest.approx([0.2])


def test_what_is_lost_is_counted_against_rounds_of_another_length() -> None:
    rows = [
        {"variant": variant, "seed": 0, "round": number, "loss": loss}
        for variant, number, loss in (
            (CENTRAL + KEPT, 0, 0.5),
            (CENTRAL + KEPT, 5, 0.4),
            (FEDERATED, 0, 0.5),
            (FEDERATED, 20, 0.45),
        )
    ]
    assert lost_to_central(rows, FEDERATED, CENTRAL + KEPT) == pytest.approx([0.5])


@pytest.mark.parametrize("num_steps", [5, 10, 20])
def test_rates_follow_the_steps_however_long_rounds_are(num_steps: int) -> None:
    variant = VARIANTS[FEDERATED + FAST + KEPT]
    rounds = [variant.training(number, num_steps) for number in range(1, 100 // num_steps + 1)]
    rates = [one.learning_rate for one in rounds for _ in range(num_steps)]
    assert rates == [rate for rate in variant.learning_rates for _ in range(20)]
    assert {(one.num_steps, one.keep_optimizer) for one in rounds} == {(num_steps, True)}


def test_a_round_that_begins_anew_warms_up_in_proportion() -> None:
    begun_anew, kept = VARIANTS[FEDERATED], VARIANTS[FEDERATED + KEPT]
    assert [begun_anew.training(1, n).warmup_steps for n in (5, 10, 20)] == [1, 2, 3]
    assert kept.training(1, 5).warmup_steps == 3


def test_rounds_of_another_length_have_a_folder_of_their_own(tmp_path) -> None:
    plain, short = (Campaign(tmp_path, CITIES, 5, "int8", steps=steps) for steps in (20, 5))
    assert plain.work(FEDERATED, 0).name == f"{CITIES}-{FEDERATED}-0"
    assert short.work(FEDERATED, 0) != plain.work(FEDERATED, 0)


def test_a_clip_is_near_the_true_clips_of_its_institution() -> None:
    truth = {"space": np.array([[0.0, 0.0], [3.0, 4.0], [9.0, 0.0]])}
    ruler = Nearness.among(truth, [ZOO, WARD, FAIR], unit=("space",))
    assert ruler.of({"space": np.array([3.0, 3.0])}, WARD) == {
        "nearest_space": 1.0,
        "right_space": 1.0,
        "same_space": 1.0,
    }
    assert ruler.of({"space": np.array([3.0, 3.0])}, FAIR)["right_space"] == 0.0


def test_a_true_clip_is_not_its_own_neighbour() -> None:
    truth = {"space": np.array([[0.0, 0.0], [0.0, 2.0]])}
    rows = list(Nearness.among(truth, [ZOO, OTHER_ZOO], unit=("space",)).of_truth())
    assert [row["nearest_space"] for row in rows] == [2.0, 2.0]
    assert all(row["group"] == TRUE and "same_space" not in row for row in rows)


def test_numbers_of_a_space_count_by_how_much_they_vary() -> None:
    truth = {"space": np.array([[0.0, 0.0], [2.0, 200.0]])}
    ruler = Nearness.among(truth, [ZOO, OTHER_ZOO], unit=())
    assert ruler.of({"space": np.array([1.0, 0.0])}, ZOO)["same_space"] == 1.0
    assert ruler.of({"space": np.array([0.0, 100.0])}, ZOO)["same_space"] == 1.0


def test_rows_are_laid_out_by_seed_and_prompt() -> None:
    rows = [
        {"seed": seed, "prompt": prompt, "group": "after", "number": 10 * seed + prompt}
        for prompt in (1, 0)
        for seed in (1, 0)
    ]
    rows.append({"seed": -1, "prompt": 0, "group": TRUE, "number": 7})
    found = by_seed_and_prompt(rows, "after", "number")
    np.testing.assert_array_equal(found, [[0, 1], [10, 11]])


def test_prompts_that_differ_widen_a_crossed_interval_however_many_seeds_there_are() -> None:
    values = np.tile([0.0, 1.0, 0.0, 1.0], (50, 1))
    low, high = crossed_interval(values)
    plain_low, plain_high = interval(values.ravel().tolist())
    assert high - low > 3 * (plain_high - plain_low)
    assert low < 0.5 < high
