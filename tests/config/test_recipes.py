from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from rewarddance.config.alignment import AlignConfig
from rewarddance.config.loader import load_config
from rewarddance.config.training import TrainConfig

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))

each_recipe = pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)


def kind_of(path: Path) -> type[BaseModel]:
    return AlignConfig if "generator" in yaml.safe_load(path.read_text()) else TrainConfig


def defaults_beside(path: Path) -> dict[str, object]:
    """What the config would be if the recipe said only what has no default."""
    content = yaml.safe_load(path.read_text())
    if kind_of(path) is TrainConfig:
        tree: dict[str, object] = {"model": {"base": "x"}, "data": {"train": "x"}}
    else:
        tree = {"generator": {"path": "x"}, "rewards": [{"model": "x"}], "prompts": {"train": "x"}}
        method = content.get("method", {"name": "refl"})
        # The group must divide the pictures of a rollout, whatever their default numbers are.
        tree |= {"method": {"name": method["name"]}, "batch_size": 8, "gradient_accumulation": 1}
    return kind_of(path).model_validate(tree).model_dump(mode="json")


@each_recipe
def test_a_recipe_loads(path: Path):
    load_config(kind_of(path), path)


@each_recipe
def test_a_recipe_says_what_was_run_with_it(path: Path):
    assert "# What was run:" in path.read_text()


@each_recipe
def test_a_recipe_states_only_what_differs_from_the_defaults(path: Path):
    defaults, content = defaults_beside(path), yaml.safe_load(path.read_text())

    for block, value in content.items():
        stated = value.items() if isinstance(value, dict) else [(None, value)]
        for key, setting in stated:
            # A block that is off by default has no defaults to repeat.
            default = defaults[block] if key is None else (defaults[block] or {}).get(key)
            assert setting != default or (block, key) == ("method", "name"), f"{block}.{key}"


def test_the_ladder_differs_only_in_its_base_and_in_how_the_batch_is_split():
    ladder = [load_config(TrainConfig, path) for path in RECIPES if path.stem.startswith("hpdv3_internvl")]
    own = {"model": {"base", "gradient_checkpointing"}, "batch_size": True, "gradient_accumulation": True, "out": True}

    assert len(ladder) == 6
    assert len({config.batch_size * config.gradient_accumulation for config in ladder}) == 1
    common = {config.model_dump_json(exclude=own) for config in ladder}
    assert len(common) == 1


@pytest.mark.parametrize("path", [path for path in RECIPES if kind_of(path) is AlignConfig], ids=lambda path: path.stem)
def test_an_alignment_recipe_is_guarded_by_a_judge_that_it_is_not_tuned_with(path: Path):
    config = load_config(AlignConfig, path)

    assert config.guard is not None
    assert {judge.model for judge in config.judges}.isdisjoint({reward.model for reward in config.rewards})
