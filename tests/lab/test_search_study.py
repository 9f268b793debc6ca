import json
from dataclasses import asdict

import pytest

from rewarddance.core.errors import UsageError
from rewarddance.generators.loading import load_generator
from rewarddance.lab.generator_weights import lab_generator
from rewarddance.lab.search_study import (
    TREES,
    SearchCell,
    SearchStudy,
    run_searches,
    search_cells,
    settings_of,
    write_search_results,
)
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


def spent(parts, scale, *ways):
    generator, verifier = parts
    cells = [SearchCell("small", way, 0, scale) for way in ways]
    return [Search(generator, verifier, settings_of(cell, generator, verifier), Drawing()).budget() for cell in cells]


@pytest.mark.parametrize("scale", TREES)
def test_best_of_n_is_given_at_least_what_the_search_over_paths_spends(parts, scale):
    paths, best_of_n, more, particles = spent(parts, scale, "paths", "best_of_n", "best_of_more", "particles")
    assert 0 <= best_of_n.velocities - paths.velocities < 8  # one candidate takes 8 steps
    assert 0 <= more.total - paths.total < 10  # 8 velocities, a decoding and a judgement
    assert 0 <= paths.velocities - particles.velocities < 8


def test_budgets_are_half_and_double(parts):
    half, whole, double = (spent(parts, scale, "paths")[0].velocities for scale in TREES)
    assert half / whole == pytest.approx(0.5, rel=0.02)
    assert double / whole == pytest.approx(2, rel=0.02)


def test_searches_of_one_cell_have_a_file_each():
    cells = search_cells((0, 1))
    assert len({cell.name for cell in cells}) == len(cells)


def test_a_way_is_compared_with_the_best_of_n_prompt_by_prompt(tmp_path):
    budget = {"velocities": 1, "decodes": 1, "judgements": 1}
    rows = [
        {"size": "small", "way": way, "seed": seed, "scale": "whole", "budget": budget, "prompts": ["a", "b"]}
        | {"gold": [0.5 + gain, 0.7 + gain], "alignment": [0.5, 0.5], "proxy": [1.0, 2.0]}
        for seed in (0, 1)
        for way, gain in (("best_of_n", 0.0), ("best_of_more", 0.05), ("paths", 0.1))
    ]
    summary = write_search_results(tmp_path / "search.json", rows)
    gain = summary["small"]["paths"]["gold_over_best_of_n"]
    # every prompt gains 0.1, so every draw of prompts does
    assert (gain["estimate"], gain["low"], gain["high"]) == pytest.approx((0.1, 0.1, 0.1))
    assert summary["small"]["paths"]["gold_over_best_of_more"]["estimate"] == pytest.approx(0.05)
    assert json.loads((tmp_path / "search.json").read_text())["summary"] == summary


def test_the_largest_verifier_is_compared_with_the_smallest_on_the_same_prompts(tmp_path):
    budget = {"velocities": 1, "decodes": 1, "judgements": 1}
    rows = [
        {"size": size, "way": "paths", "seed": 0, "scale": "whole", "budget": budget, "prompts": ["a", "b"]}
        | {"gold": [0.5 + gain, 0.7 + gain], "alignment": [0.5, 0.5], "proxy": [1.0, 2.0]}
        for size, gain in (("small", 0.2), ("nano", 0.0))
    ]
    write_search_results(tmp_path / "search.json", rows)
    stored = json.loads((tmp_path / "search.json").read_text())["largest_over_smallest_verifier"]
    assert stored["paths"]["estimate"] == pytest.approx(0.2)


def test_a_finished_search_on_another_budget_is_refused(tmp_path):
    cell = SearchCell("small", "paths", 0)
    tree = {**asdict(TREES["whole"]), "starts": 99}
    (tmp_path / f"{cell.name}.json").write_text(json.dumps({"tree": tree}))
    with pytest.raises(UsageError, match="on another budget"):
        run_searches(SearchStudy(tmp_path, tmp_path, (cell,), jobs=1))


def test_each_budget_has_its_own_comparison(tmp_path):
    budget = {"velocities": 1, "decodes": 1, "judgements": 1}
    rows = [
        {"size": "small", "way": way, "seed": 0, "scale": scale, "budget": budget, "prompts": ["a"]}
        | {"gold": [0.5 + gain], "alignment": [0.5], "proxy": [1.0]}
        for scale, gained in (("half", 0.2), ("whole", 0.1))
        for way, gain in (("best_of_n", 0.0), ("paths", gained))
    ]
    write_search_results(tmp_path / "search.json", rows)
    stored = json.loads((tmp_path / "search.json").read_text())
    gains = [stored["frontier"][scale]["small"]["paths"]["gold_over_best_of_n"] for scale in ("half", "whole")]
    assert [gain["estimate"] for gain in gains] == pytest.approx([0.2, 0.1])
    assert "double" not in stored["frontier"]
    together = stored["gold_over_best_of_n_at_all_budgets"]["small"]
    assert list(together) == ["paths"]
    assert together["paths"]["estimate"] == pytest.approx(0.15)
    assert together["paths"]["n"] == 1
