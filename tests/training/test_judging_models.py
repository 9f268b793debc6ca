import shutil
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from rewarddance.config.alignment import AlignConfig
from rewarddance.config.alignment_rewards import JudgeConfig, RewardConfig
from rewarddance.core.errors import ModelError, UsageError
from rewarddance.rewards.loading import load_reward_model, new_reward_model
from rewarddance.rewards.protocol import RewardModel
from rewarddance.training.alignment_inputs import (
    check_without_models,
    configured_judges,
    configured_reward,
    run_models,
)
from rewarddance.training.judging_models import JudgingModel, is_the_reward
from tests.tiny_models import save_tiny_model

PLACES = ("rewards", "judges")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model("internvl", tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def trained(base: Path) -> Path:
    new_reward_model(base, "pairwise", device="cpu").save(base.parent / "trained")
    return base.parent / "trained"


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    """An adapter that does something."""
    model = load_reward_model(base, device="cpu").backbone.model
    with warnings.catch_warnings():
        # peft asks transformers by a name that transformers has deprecated.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        wrapper: Any = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=r".*language_model.*\.q_proj"))
    rng = torch.Generator().manual_seed(0)
    for name, parameter in wrapper.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=rng)
    wrapper.save_pretrained(base.parent / "adapter")
    return base.parent / "adapter"


def config_of(place: str, asked: dict[str, Any]) -> AlignConfig:
    tree: dict[str, Any] = {
        "generator": {"path": "g"},
        "rewards": [{"model": "other"}],
        "prompts": {"train": "prompts.txt"},
    }
    return AlignConfig.model_validate(tree | {place: [asked]})


def loaded(place: str, **asked: Any) -> JudgingModel:
    is_reward = place == "rewards"
    found = run_models(config_of(place, asked), needs_rewards=is_reward, needs_judges=not is_reward)
    (model,) = found.rewards if is_reward else found.judges
    return model


@pytest.mark.parametrize("place", PLACES)
def test_an_untrained_model_is_asked_as_the_kind_says(base: Path, place: str):
    assert loaded(place, model=str(base)).kind == "pairwise"
    assert loaded(place, model=str(base), kind="pointwise").kind == "pointwise"


def test_an_untrained_pointwise_reward_needs_no_references(base: Path):
    config = config_of("rewards", {"model": str(base), "kind": "pointwise"})
    assert not configured_reward(config).needs_references
    check_without_models(config, ["a red circle"])
    with pytest.raises(UsageError, match=r"references\.folder is not set"):
        check_without_models(config_of("rewards", {"model": str(base)}), ["a red circle"])


@pytest.mark.parametrize("place", PLACES)
def test_weights_have_the_precision_and_the_adapter_that_the_config_says(base: Path, adapter: Path, place: str):
    def first_query(**asked: Any) -> torch.Tensor:
        model = loaded(place, model=str(base), **asked)
        assert isinstance(model, RewardModel)
        return next(
            value for name, value in model.module.named_parameters() if "language_model" in name and "q_proj" in name
        )

    plain, adapted = first_query(), first_query(adapter=str(adapter))
    assert plain.dtype == torch.float32
    assert first_query(dtype="bfloat16").dtype == torch.bfloat16
    assert not torch.equal(plain, adapted)


@pytest.mark.parametrize("place", PLACES)
def test_a_revision_reaches_the_loader(base: Path, place: str):
    with pytest.raises(UsageError, match="is a folder and has no revision 'v1'"):
        loaded(place, model=str(base), revision="v1")


@pytest.mark.parametrize("place", PLACES)
def test_what_does_not_fit_a_model_is_known_before_it_is_loaded(trained: Path, place: str):
    wrong = config_of(place, {"model": str(trained), "kind": "pointwise"})
    bare = config_of(place, {"model": str(trained), "adapter": str(trained)})
    if place == "judges":  # the reward is not what is looked at here
        own = (RewardConfig(model=str(trained.parent / "base"), kind="pointwise"),)
        wrong, bare = (each.model_copy(update={"rewards": own}) for each in (wrong, bare))
    with pytest.raises(UsageError, match="is a pairwise model, not a pointwise one; leave the kind out"):
        check_without_models(wrong, ["a red circle"])
    with pytest.raises(ModelError, match=r"holds no adapter: there is no adapter_config\.json"):
        check_without_models(bare, ["a red circle"])


SERVICE = {"url": "http://one/v1", "served_model": "big"}


@pytest.mark.parametrize(
    ("judge", "reward", "is_same"),
    [
        ({"model": "o/m"}, {"model": "o/m"}, True),
        ({"model": "o/m"}, {"model": "o/m", "dtype": "bfloat16"}, True),
        ({"model": "o/m"}, {"model": "o/m", "adapter": "o/a"}, False),
        ({"model": "o/m", "adapter": "o/a"}, {"model": "o/m", "adapter": "o/a"}, True),
        ({"model": "o/m", "adapter": "o/a"}, {"model": "o/m", "adapter": "o/b"}, False),
        ({"model": "o/m", "revision": "v1"}, {"model": "o/m", "revision": "v2"}, False),
        ({"model": "o/m", "revision": "v1"}, {"model": "o/m"}, True),
        ({"model": "o/m", "kind": "pointwise"}, {"model": "o/m", "kind": "pairwise"}, False),
        ({"model": "o/m", "kind": "pointwise"}, {"model": "o/m"}, True),
        ({"model": "o/m", "shift": 3}, {"model": "o/m"}, False),
        ({"model": "one", "service": SERVICE}, {"model": "two", "service": SERVICE}, True),
        ({"model": "one", "service": SERVICE}, {"model": "two", "service": SERVICE | {"served_model": "b"}}, False),
    ],
)
def test_a_judge_is_the_reward_only_if_the_same_is_asked_of_the_same_weights(
    judge: dict[str, Any], reward: dict[str, Any], is_same: bool
):
    assert is_the_reward(JudgeConfig.model_validate(judge), RewardConfig.model_validate(reward)) == is_same


def test_the_record_of_a_served_reward_is_the_model_itself(trained: Path, tmp_path: Path):
    record = shutil.copy(trained / "rewarddance.json", tmp_path)
    assert is_the_reward(JudgeConfig(model=str(trained)), RewardConfig(model=str(record)))
    assert not is_the_reward(JudgeConfig(model=str(trained.parent / "base")), RewardConfig(model=str(record)))


def test_what_several_rewards_and_judges_name_is_loaded_once(base: Path, tmp_path: Path):
    (tmp_path / "link").symlink_to(base)
    config = AlignConfig.model_validate(
        {
            "generator": {"path": "g"},
            "rewards": [{"model": str(base), "instruction": one} for one in ("alignment", "aesthetics")],
            "judges": [
                {"model": str(tmp_path / "link"), "instruction": "alignment", "shift": 1},
                {"model": str(base), "kind": "pointwise"},
            ],
            "prompts": {"train": "prompts.txt"},
        }
    )
    models = run_models(config)
    assert models.rewards[0] is models.rewards[1] is models.judges[0]
    assert models.judges[1] is not models.judges[0]


def test_uses_of_one_model_keep_their_criteria_their_shift_and_their_gradient(base: Path):
    references = [[torch.zeros(3, 32, 32)], [torch.ones(3, 32, 32)]]
    prompts = ["a cat", "a dog"]
    uses = [{"model": str(base), "instruction": one, "kind": "pairwise"} for one in ("alignment", "aesthetics")]
    tree: dict[str, Any] = {
        "generator": {"path": "g", "gradient_checkpointing": True},
        "prompts": {"train": "prompts.txt"},
        "judges": [uses[0] | {"shift": 3}],
    }
    together = AlignConfig.model_validate(tree | {"rewards": uses})
    models = run_models(together)
    signal = configured_reward(together, models.rewards)
    (judge,) = configured_judges(together, lambda asked: references, models.judges).values()

    def pixels() -> torch.Tensor:
        return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()

    shown = pixels()
    values = signal.log_odds(shown, prompts, references)
    judged = judge(pixels().detach(), prompts)
    values.combined.sum().backward()

    alone = [AlignConfig.model_validate(tree | {"rewards": [use]}) for use in uses]
    raw = [configured_reward(one).judge(pixels(), prompts, references).proxy.tolist() for one in alone]
    (own,) = configured_judges(together, lambda asked: references).values()
    assert [found.tolist() for found in values.raw.values()] == [pytest.approx(one, abs=1e-5) for one in raw]
    assert list(judged) == list(own(pixels().detach(), prompts))
    assert shown.grad is not None
    assert shown.grad.abs().sum() > 0
