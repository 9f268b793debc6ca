from pathlib import Path

import pytest
import yaml

from rewarddance.config.loader import load_config
from rewarddance.config.training import TrainConfig

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_loads(path: Path):
    load_config(TrainConfig, path)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_what_was_run_with_it(path: Path):
    assert "# What was run:" in path.read_text()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_states_only_what_differs_from_the_defaults(path: Path):
    defaults = load_config(TrainConfig, None, ["model.base=x", "data.train=x"]).model_dump(mode="json")
    content = yaml.safe_load(path.read_text())

    for block, value in content.items():
        stated = value.items() if isinstance(value, dict) else [(None, value)]
        for key, setting in stated:
            default = defaults[block] if key is None else defaults[block][key]
            assert setting != default, f"{block}.{key}"


def test_the_ladder_differs_only_in_its_base_and_in_how_the_batch_is_split():
    ladder = [load_config(TrainConfig, path) for path in RECIPES if path.stem.startswith("hpdv3_internvl")]
    own = {"model": {"base", "gradient_checkpointing"}, "batch_size": True, "gradient_accumulation": True, "out": True}

    assert len(ladder) == 6
    assert len({config.batch_size * config.gradient_accumulation for config in ladder}) == 1
    common = {config.model_dump_json(exclude=own) for config in ladder}
    assert len(common) == 1
