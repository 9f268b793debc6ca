import pytest

from rewarddance.config.alignment import AlignConfig
from rewarddance.config.fields import describe_fields
from rewarddance.config.loader import load_config
from rewarddance.core.errors import ConfigError

NEEDED = ["generator.path=g", "rewards=[{model: r}]", "prompts.train=p.txt"]


def problem(*overrides):
    with pytest.raises(ConfigError) as caught:
        load_config(AlignConfig, None, [*NEEDED, *overrides])
    return str(caught.value)


@pytest.mark.parametrize("name", ["refl", "draft", "flow_grpo", "diffusion_nft"])
def test_every_method_works_with_its_name_alone(name):
    assert load_config(AlignConfig, None, [*NEEDED, f"method.name={name}"]).method.name == name


def test_an_unknown_method_is_named_with_the_known_ones():
    assert "'method.name' cannot be 'ppo'; choose from 'refl', 'draft'" in problem("method.name=ppo")


def test_a_method_without_a_name_is_told_so():
    assert "'method.name' is missing" in problem("method.group_size=4")


def test_a_typo_in_a_methods_block_is_named_without_the_method():
    assert "unknown key 'method.group_sze'; did you mean 'method.group_size'?" in problem(
        "method.name=flow_grpo", "method.group_sze=4"
    )


def test_a_typo_in_a_reward_is_named():
    assert "unknown key 'rewards.0.modle'" in problem("rewards=[{modle: r}]")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ("method={name: refl, window: [0.4, 1.0]}", "method.name=flow_grpo"),
            "'method.window', which belongs to refl, and",
        ),
        (
            ("method={name: flow_grpo, group_size: 4}", "method.name=refl"),
            "which belongs to flow_grpo and diffusion_nft, and",
        ),
    ],
)
def test_a_key_that_another_method_left_behind_is_told_whose_it_is(overrides, words):
    name = overrides[1].partition("=")[2]
    message = problem(*overrides)
    assert words in message
    assert f"method.name is {name}; give the block anew, such as --set 'method={{name: {name}}}'" in message
    assert "did you mean" not in message
    assert load_config(AlignConfig, None, [*NEEDED, *overrides, f"method={{name: {name}}}"]).method.name == name


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("rewards=[{model: r, weight: -1}]", "'rewards.0.weight' cannot be -1; input should be greater than 0"),
        ("regulariser={pretraining_weight: 1, pretraining_data: 3}", "'regulariser.pretraining_data' cannot be 3"),
    ],
)
def test_one_wrong_value_is_one_mistake(override, words):
    message = problem(override)
    assert words in message
    assert "more)" not in message


def test_several_wrong_values_are_counted():
    assert problem("rewards=[{model: r, weight: -1}]", "batch_size=0", "seed=-1").endswith("(and 2 more)")


def test_a_key_of_another_method_is_unknown():
    assert "unknown key 'method.group_size'" in problem("method.name=refl", "method.group_size=4")


def test_groups_that_are_not_whole_are_refused():
    assert "no whole groups" in problem("method.name=flow_grpo", "method.group_size=3")


def test_a_last_rollout_that_is_cut_short_is_refused():
    assert "no whole number of rollouts" in problem(
        "method.name=flow_grpo", "method.updates_per_rollout=3", "optimizer_steps=10", "method.group_size=4"
    )


def test_raising_a_weight_that_is_nought_is_refused():
    assert "no weight to raise" in problem("guard.action=raise_kl", "judges=[{model: j}]")


def test_an_empty_run_directory_is_refused():
    assert "out: it is empty" in problem("out=")
    assert "out: it is empty" in problem("out=''")


def test_a_guard_without_judges_or_with_one_prompt_is_refused():
    assert "name in judges a reward model" in problem("guard={}")
    assert "evaluation_prompts is 1" in problem("guard={}", "judges=[{model: j}]", "evaluation_prompts=1")


def test_a_guard_against_collapse_with_one_picture_a_prompt_is_refused():
    given = ("judges=[{model: j}]", "evaluation_samples=1")
    assert "evaluation_samples is 1; give it 2 or more" in problem("guard={}", *given)
    # Whoever wants judges alone says so; without a guard nobody watches.
    for passed in ("guard.collapse_share=null", "seed=1"):
        assert load_config(AlignConfig, None, [*NEEDED, *given, passed]).evaluation_samples == 1


def test_more_noise_than_cps_has_is_refused():
    assert "noise_level (1.5) is above 1" in problem(
        "method.name=flow_grpo", "method.noise=cps", "method.noise_level=1.5"
    )


def test_an_empty_window_is_refused():
    assert "is empty" in problem("method.name=refl", "method.window=[0.9, 0.5]")


def test_half_a_size_is_refused():
    assert "give both or neither" in problem("sampling.height=512")


def test_keys_of_the_methods_are_listed_once_with_the_methods_that_have_them():
    fields = {field.path: field for field in describe_fields(AlignConfig)}
    assert fields["method.name"].default == "refl"
    assert fields["method.group_size"].meaning.startswith("For `flow_grpo`, `diffusion_nft`: ")
    assert fields["rewards[].model"].default is None


@pytest.mark.parametrize("setting", ["pretraining_data=references", "pretraining_steps=10"])
def test_a_weight_that_does_not_draw_towards_the_reference_policy_to_the_end_is_none_to_raise(setting: str):
    given = ("guard.action=raise_kl", "judges=[{model: j}]", "regulariser.pretraining_weight=1")
    assert "no weight to raise" in problem(*given, f"regulariser.{setting}")


def test_a_reward_is_not_its_own_held_out_judge():
    own = ("rewards=[{model: runs/one/model}]",)
    assert "which is a reward as well" in problem(*own, "judges=[{model: runs/one/model/}]")
    # on moved pictures, or by other criteria, it may serve where there is no other model
    for judge in ("{model: runs/one/model, shift: 3}", "{model: runs/one/model, instruction: aesthetics}"):
        load_config(AlignConfig, None, [*NEEDED, *own, f"judges=[{judge}]"])


def test_the_worst_references_are_neither_learned_from_nor_made_anew():
    worst = "references.kept=bottom"
    load_config(AlignConfig, None, [*NEEDED, worst])
    learned = ("regulariser.pretraining_weight=1", "regulariser.pretraining_data=references")
    assert "would learn the worst pictures" in problem(worst, *learned)
    assert "without references.refresh_every" in problem(worst, "references.refresh_every=5")
    assert "without references.refresh_every" in problem(
        worst, "guard.action=refresh_references", "judges=[{model: j}]"
    )
