import json

import pytest

from rewarddance.generators.loading import load_generator
from rewarddance.lab.generator_weights import lab_generator
from rewarddance.lab.search_study import search_cells, settings_of, write_search_results
from rewarddance.rewards.loading import new_reward_model
from rewarddance.search.bench import Drawing
from rewarddance.search.running import Search
from rewarddance.search.verification import Verifier
from tests.tiny_models import save_tiny_model


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = save_tiny_model("internvl", tmp_path_factory.mktemp("base"))
    return load_generator(str(lab_generator()), device="cpu"), Verifier(new_reward_model(folder, "pointwise", seed=0))


def test_cells_come_seed_by_seed_and_the_largest_verifier_first():
    cells = search_cells((0, 1))
    assert {cell.seed for cell in cells[: len(cells) // 2]} == {0}
    assert cells[0].size == "small"


@pytest.mark.parametrize("way", ["best_of_n", "particles"])
def test_ways_that_are_compared_by_velocities_spend_no_more_than_the_search_over_paths(parts, way):
    generator, verifier = parts
    budgets = {
        name: Search(generator, verifier, settings_of(name, 0, generator, verifier), Drawing()).budget()
        for name in (way, "paths")
    }
    assert 0 <= budgets["paths"].velocities - budgets[way].velocities < 8  # one candidate takes 8 steps


def test_the_wider_best_of_n_spends_as_much_of_everything(parts):
    generator, verifier = parts
    more, paths = (
        Search(generator, verifier, settings_of(name, 0, generator, verifier), Drawing()).budget()
        for name in ("best_of_more", "paths")
    )
    assert 0 <= paths.total - more.total < 10  # 8 velocities, a decoding and a judgement


def test_a_way_is_compared_with_the_best_of_n_prompt_by_prompt(tmp_path):
    budget = {"velocities": 1, "decodes": 1, "judgements": 1}
    rows = [
        {"size": "small", "way": way, "seed": seed, "budget": budget, "prompts": ["a", "b"]}
        | {"gold": [0.5 + gain, 0.7 + gain], "alignment": [0.5, 0.5], "proxy": [1.0, 2.0]}
        for seed in (0, 1)
        for way, gain in (("best_of_n", 0.0), ("paths", 0.1))
    ]
    summary = write_search_results(tmp_path / "search.json", rows)
    gain = summary["small"]["paths"]["gold_over_best_of_n"]
    # every prompt gains 0.1, so every draw of prompts does
    assert (gain["estimate"], gain["low"], gain["high"]) == pytest.approx((0.1, 0.1, 0.1))
    assert json.loads((tmp_path / "search.json").read_text())["summary"] == summary
