import pytest

from tests.campaigns.prompt_diversity import distinct, one_template, self_bleu, vendi
from tests.worldloop.prompts.scenes import ATLAS, SCENES
from worldloop.prompts.prose import write_prose

SAMPLE = SCENES[::8][:240]


def test_prompts_vary_more_than_one_template():
    ours = [write_prose(scene, ATLAS) for scene in SAMPLE]
    template = [one_template(scene, ATLAS) for scene in SAMPLE]
    assert self_bleu(ours) <= 0.45 < self_bleu(template)
    assert vendi(ours) >= len(ours) * 500 / 900 > vendi(template)


def test_the_measures_of_one_prompt_repeated_are_those_of_no_variety():
    same = ["a quiet street in Lima at noon under a grey sky"] * 100
    assert self_bleu(same) == pytest.approx(1.0)
    assert vendi(same) == pytest.approx(1.0)
    assert distinct(same, 2) == pytest.approx(0.01)


def test_the_measures_of_prompts_without_a_common_word_are_those_of_all_variety():
    apart = [" ".join(f"w{k}x{n}" for n in range(9)) for k in range(100)]
    assert self_bleu(apart) < 1e-6
    assert vendi(apart) == pytest.approx(100.0)
