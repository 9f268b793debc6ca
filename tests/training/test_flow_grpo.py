import pytest
import torch

from rewarddance.generators.loading import load_generator
from rewarddance.training.alignment import align
from rewarddance.training.alignment_start import METHODS
from rewarddance.training.flow_grpo import FlowGrpo
from rewarddance.training.policy_optimizer import PolicyOptimizer
from rewarddance.training.reward_signal import RewardSignal, ScorerReward
from tests.tiny_generators import GENERATOR_FAMILIES, tiny_generator_folder
from tests.training.stand_in_generator import AT_ONCE, SIDE, StandInGenerator, align_config, bench_of, redness, rows_of


def black_box():
    """Red or not, as a program that has no gradient."""

    def score(pixels, prompts):
        return redness(pixels, prompts).tolist()

    return RewardSignal([ScorerReward("redness", score)], patience=AT_ONCE)


def grpo(**changes):
    return {"name": "flow_grpo", "group_size": 4, "clip_range": 0.2, **changes}


def test_it_raises_a_reward_without_gradient(tmp_path):
    config = align_config(
        tmp_path,
        method=grpo(group_size=8),
        optimizer={"learning_rate": 3e-2, "warmup_share": 0.0},
        optimizer_steps=25,
        evaluate_every=25,
        samples_every=25,
        save_every=25,
        gradient_accumulation=2,
    )
    align(config, StandInGenerator(), black_box())
    before, after = rows_of(tmp_path / "run/evaluations.jsonl")
    assert after["proxy"] > before["proxy"] + 0.3


@pytest.mark.parametrize("noise", ["flow", "dance", "cps"])
@pytest.mark.parametrize("lora", [{"rank": 4}, None])
def test_the_importance_ratio_is_exactly_one_before_the_first_update(tmp_path, noise, lora):
    config = align_config(tmp_path, method=grpo(noise=noise), generator={"path": "unused", "lora": lora})
    bench = bench_of(config, black_box())
    (parts,) = FlowGrpo(bench, config.method).updates(0)
    for part in parts:
        assert part.figures["largest_ratio_deviation"] == 0.0
        assert part.figures["ratio"] == 1.0


@pytest.mark.parametrize("family", GENERATOR_FAMILIES)
def test_the_ratio_is_exactly_one_for_every_family(tmp_path, family):
    generator = load_generator(tiny_generator_folder(family, tmp_path / family), device="cpu")
    config = align_config(tmp_path, method=grpo(), batch_size=4, sampling={"denoising_steps": 3})
    bench = bench_of(config, black_box(), generator)
    (parts,) = FlowGrpo(bench, config.method).updates(0)
    assert {part.figures["largest_ratio_deviation"] for part in parts} == {0.0}


def test_the_ratio_leaves_one_at_the_second_update_of_a_rollout(tmp_path):
    config = align_config(
        tmp_path, method=grpo(updates_per_rollout=2), optimizer={"learning_rate": 1e-1, "warmup_share": 0.0}
    )
    bench = bench_of(config, black_box())
    optimizer = PolicyOptimizer(bench.policy, config.optimizer, 2)
    updates = FlowGrpo(bench, config.method).updates(0)
    deviations = [optimizer.step(step, parts).method["largest_ratio_deviation"] for step, parts in enumerate(updates)]
    assert deviations[0] == 0.0
    assert deviations[1] > 0.0


def test_only_the_window_is_stochastic_and_it_never_holds_the_last_step(tmp_path):
    config = align_config(
        tmp_path, method=grpo(stochastic_steps=1), sampling={"denoising_steps": 4}, optimizer_steps=40
    )
    bench = bench_of(config, black_box())
    method = FlowGrpo(bench, config.method)
    windows = {tuple(method._window(step)) for step in range(40)}
    assert windows == {(0,), (1,), (2,)}


def test_equal_rewards_move_nothing(tmp_path):
    config = align_config(tmp_path, method=grpo())
    flat = RewardSignal([ScorerReward("flat", lambda pixels, prompts: [1.0] * len(prompts))], patience=AT_ONCE)
    bench = bench_of(config, flat)
    (parts,) = FlowGrpo(bench, config.method).updates(0)
    assert PolicyOptimizer(bench.policy, config.optimizer, 1).step(0, parts).gradient_norm == 0.0


def test_the_divergence_from_the_reference_policy_is_zero_at_first_and_then_grows(tmp_path):
    config = align_config(
        tmp_path,
        method=grpo(kl_weight=1e-3),
        optimizer={"learning_rate": 5e-2, "warmup_share": 0.0},
        optimizer_steps=3,
        evaluate_every=3,
        samples_every=3,
    )
    align(config, StandInGenerator(), black_box())
    first, second, third = (row["kl"] for row in rows_of(tmp_path / "run/metrics.jsonl"))
    assert first == 0.0
    assert 0.0 < second < third


def test_the_divergence_of_the_path_is_logged_in_nats_too(tmp_path):
    """The sum over latent elements, of which a picture has `3 * side * side`; `kl` is per element."""
    config = align_config(
        tmp_path,
        method=grpo(kl_weight=1e-3, stochastic_steps=3),
        gradient_accumulation=2,
        optimizer={"learning_rate": 5e-2, "warmup_share": 0.0},
        optimizer_steps=2,
    )
    align(config, StandInGenerator(), black_box())
    first, second = rows_of(tmp_path / "run/metrics.jsonl")
    assert first["method"]["path_kl_nats"] == 0.0
    assert second["method"]["path_kl_nats"] == pytest.approx(second["kl"] * 3 * SIDE * SIDE, rel=1e-5)
    assert second["kl"] > 0.0


def test_without_a_weight_no_divergence_is_measured(tmp_path):
    config = align_config(tmp_path, method=grpo())
    (parts,) = FlowGrpo(bench_of(config, black_box()), config.method).updates(0)
    assert not any("path_kl_nats" in part.figures for part in parts)


def test_a_group_has_one_prompt_and_different_noise(tmp_path):
    bench = bench_of(align_config(tmp_path, batch_size=6))
    draws = bench.draws.draws(0, 2, group_size=4)
    prompts = [prompt for draw in draws for prompt in draw.prompts]
    seeds = [seed for draw in draws for seed in draw.seeds]
    assert [len(set(prompts[start : start + 4])) for start in (0, 4, 8)] == [1, 1, 1]
    assert len(set(prompts)) == 3
    assert len(set(seeds)) == 12


@pytest.mark.parametrize(("initial_noise", "beginnings"), [("own", 8), ("group", 2)])
def test_a_group_begins_with_its_own_noise_or_with_one(tmp_path, initial_noise, beginnings):
    config = align_config(tmp_path, method=grpo(initial_noise=initial_noise), batch_size=8)
    bench = bench_of(config, black_box())
    (draw,) = bench.draws.draws(0, 1, 4)
    trajectory = FlowGrpo(bench, config.method)._rollout(0, draw).trajectory
    assert len(torch.unique(trajectory.latents[0].flatten(1), dim=0)) == beginnings
    # the stochastic steps part them
    assert len(torch.unique(trajectory.final.flatten(1), dim=0)) == 8


def test_groups_share_their_noise_across_batches(tmp_path):
    bench = bench_of(align_config(tmp_path, batch_size=6))
    draws = bench.draws.draws(0, 2, group_size=4)
    shared = [seed for draw in draws for seed in draw.group_seeds]
    seeds = [seed for draw in draws for seed in draw.seeds]
    assert shared == [seeds[0]] * 4 + [seeds[4]] * 4 + [seeds[8]] * 4


def test_too_many_stochastic_steps_are_refused(tmp_path):
    config = align_config(tmp_path, method=grpo(stochastic_steps=4))
    with pytest.raises(ValueError, match="at most 3 can be stochastic"):
        align(config, StandInGenerator(), black_box())


@pytest.mark.parametrize("method", [grpo(), {"name": "diffusion_nft", "group_size": 4}])
def test_a_group_in_two_batches_is_compared_by_the_same_statistics(tmp_path, method):
    # Equal pictures, in groups of four and batches of two, by two rewards: nobody is better than anybody.
    class Still(StandInGenerator):
        def decode(self, latents, size=None):
            return 0.0 * latents + torch.tensor([0.9, 0.1, 0.1])[:, None, None]

    scorers = [ScorerReward(name, lambda seen, _: redness(seen, _).tolist()) for name in ("one", "two")]
    reward = RewardSignal(scorers, patience=AT_ONCE)
    reward.judge(torch.zeros(2, 3, 8, 8), ["a", "b"])
    config = align_config(tmp_path, method=method, batch_size=2, gradient_accumulation=4)
    bench = bench_of(config, reward, Still())
    (parts,) = METHODS[type(config.method)](bench, config.method).updates(0)
    figures = [part.figures for part in parts]
    assert {figure.get("advantage_size", 0.0) for figure in figures} == {0.0}
    assert {figure.get("positive_share", 0.5) for figure in figures} == {0.5}


def test_a_rollout_has_no_graph(tmp_path):
    config = align_config(tmp_path, method=grpo())
    bench = bench_of(config, black_box())
    (draw,) = bench.draws.draws(0, 1, 4)
    rollout = FlowGrpo(bench, config.method)._rollout(0, draw)
    assert not rollout.trajectory.latents.requires_grad
    assert not torch.isnan(rollout.trajectory.log_probs[list(rollout.trajectory.stochastic_steps)]).any()
