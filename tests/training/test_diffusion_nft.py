import torch

from rewarddance.training.alignment import align
from rewarddance.training.diffusion_nft import DiffusionNft
from rewarddance.training.policy_optimizer import PolicyOptimizer
from rewarddance.training.reward_signal import RewardSignal, ScorerReward
from tests.training.stand_in_generator import AT_ONCE, StandInGenerator, align_config, bench_of, redness, rows_of


def black_box():
    """Red or not, as a program that has no gradient."""
    score = ScorerReward("redness", lambda pixels, prompts: redness(pixels, prompts).tolist())
    return RewardSignal([score], patience=AT_ONCE)


def nft(**changes):
    return {"name": "diffusion_nft", "group_size": 4, "beta": 0.5, "advantage_clip": 2.0, **changes}


def test_it_raises_a_reward_without_gradient(tmp_path):
    config = align_config(
        tmp_path,
        method=nft(group_size=8),
        optimizer={"learning_rate": 2e-2, "warmup_share": 0.0},
        optimizer_steps=20,
        evaluate_every=20,
        samples_every=20,
        save_every=20,
        gradient_accumulation=2,
    )
    align(config, StandInGenerator(), black_box())
    before, after = rows_of(tmp_path / "run/evaluations.jsonl")
    assert after["proxy"] > before["proxy"] + 0.3


def test_the_old_policy_keeps_its_share(tmp_path):
    config = align_config(tmp_path, method=nft(old_policy="rising"))
    bench = bench_of(config, black_box())
    method, optimizer = DiffusionNft(bench, config.method), PolicyOptimizer(bench.policy, config.optimizer, 100)
    before = {name: value.detach().clone() for name, value in bench.policy.parameters.items()}
    for parts in method.updates(99):
        optimizer.step(99, parts)
    with bench.policy.using("old"):
        old = {name: value.detach().clone() for name, value in bench.policy.parameters.items()}
    for name, value in bench.policy.parameters.items():
        # After 100 updates the old policy keeps 100 * 0.001 of itself.
        torch.testing.assert_close(old[name], 0.1 * before[name] + 0.9 * value.detach())


def test_pictures_come_from_the_old_policy(tmp_path):
    config = align_config(tmp_path, method=nft())
    bench = bench_of(config, black_box())
    method = DiffusionNft(bench, config.method)
    (draw,) = bench.draws.draws(0, 1, 4)
    before = method._rollout(0, draw).clean
    with torch.no_grad():
        for value in bench.policy.parameters.values():
            value.add_(0.5)
    assert torch.equal(method._rollout(0, draw).clean, before)


def test_equal_rewards_make_every_picture_as_good_as_bad(tmp_path):
    config = align_config(tmp_path, method=nft(noise_levels=1))
    flat = RewardSignal([ScorerReward("flat", lambda pixels, prompts: [1.0] * len(prompts))], patience=AT_ONCE)
    bench = bench_of(config, flat)
    (parts,) = DiffusionNft(bench, config.method).updates(0)
    figures = PolicyOptimizer(bench.policy, config.optimizer, 1).step(0, parts)
    assert figures.method["positive_share"] == 0.5
    # With r = 1/2 the two halves pull against each other, and the policy is the old one: nothing moves.
    assert figures.gradient_norm < 1e-6
