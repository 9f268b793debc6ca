import json
import math
import threading
import time

import pytest
import torch
from PIL import Image

from rewarddance.core.errors import CheckpointError, NonFiniteError, RewardError, UsageError
from rewarddance.core.types import Judgement, Media, Status
from rewarddance.rewards.loading import new_reward_model
from rewarddance.training.reward_signal import (
    JudgeReward,
    ModelReward,
    Normalisation,
    Patience,
    ReferenceUse,
    RewardSignal,
    ScorerReward,
    image_from_pixels,
    reward_from_model,
)
from tests.tiny_models import save_tiny_model

HASTY = Patience(deadline_seconds=5.0, tries=3, backoff_seconds=0.0)


def samples(count: int = 3, size: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def flat(level: float, size: int = 8) -> torch.Tensor:
    return torch.full((3, size, size), level)


class Brightness:
    """A stand-in for a reward model: mean of the sample less that of its reference image."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale
        self.asked: list[int] = []

    def reward(self, pixels, prompts, reference_pixels=None, instruction=None):
        self.asked.append(len(prompts))
        values = self.scale * pixels.mean((1, 2, 3))
        return values if reference_pixels is None else values - self.scale * reference_pixels.mean((1, 2, 3))


def brightness(scale: float = 1.0, name: str = "brightness", weight: float = 1.0, needs_references: bool = False):
    return ModelReward(name, Brightness(scale), weight, needs_references=needs_references)


def of_scorer(scorer, patience: Patience = HASTY) -> RewardSignal:
    return RewardSignal([ScorerReward("judge", scorer)], patience=patience)


class Calls:
    """A scorer that gives the answers of a list, one a call, and raises those that are exceptions."""

    def __init__(self, *answers) -> None:
        self.answers = list(answers)

    def __call__(self, pixels, prompts):
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


# One reward


def test_a_single_reward_of_weight_one_is_passed_through_as_it_is():
    pixels = samples()
    values = RewardSignal([brightness(7.0)]).log_odds(pixels, ["a", "b", "c"])
    assert torch.equal(values.combined, 7.0 * pixels.mean((1, 2, 3)))
    assert torch.equal(values.proxy, values.combined)


def test_the_gradient_reaches_the_pixels():
    pixels = samples(2).requires_grad_()
    RewardSignal([brightness(5.0)]).log_odds(pixels, ["a", "b"]).combined.sum().backward()
    # d(5 * mean of 192 values) / d value
    assert torch.allclose(pixels.grad, torch.full_like(pixels, 5.0 / 192))


def test_a_real_reward_model_has_the_gradient_of_its_finite_difference(tmp_path_factory):
    folder = save_tiny_model("internvl", tmp_path_factory.mktemp("tiny") / "internvl")
    model = new_reward_model(folder, "pairwise", instruction="brief", device="cpu", dtype="float64")
    signal = RewardSignal([reward_from_model(model, "tiny")])
    pixels = (0.2 + 0.6 * samples(1, 24).double()).requires_grad_()
    references = [(0.2 + 0.6 * samples(1, 24, seed=1)[0].double(),)]
    signal.log_odds(pixels, ["a red square"], references).combined.sum().backward()
    direction = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    width = 3e-3  # what the model keeps in float32 is noise below
    ahead, behind = (
        signal.judge(pixels.detach() + sign * width * direction, ["a red square"], references).combined.item()
        for sign in (1, -1)
    )
    assert (pixels.grad * direction).sum().item() == pytest.approx((ahead - behind) / (2 * width), rel=1e-2)


def test_a_checkpointed_reward_model_has_the_same_gradient_against_every_reference(tmp_path_factory):
    folder = save_tiny_model("internvl", tmp_path_factory.mktemp("tiny") / "internvl")
    references = [tuple(samples(2, 24, seed=seed)) for seed in (1, 2)]
    slopes, calls = [], []
    for is_on in (False, True):
        model = new_reward_model(folder, "pairwise", instruction="brief", device="cpu")
        part = model.backbone.model.model.language_model.layers[0].mlp
        part.register_forward_pre_hook(lambda *_: calls.append(torch.is_grad_enabled()))
        signal = RewardSignal([reward_from_model(model, "tiny", gradient_checkpointing=is_on)])
        pixels = samples(2, 24).requires_grad_()
        values = signal.log_odds(pixels, ["a red square", "a blue circle"], references)
        before = calls.count(True)
        values.combined.sum().backward()
        assert (calls.count(True) > before) is is_on
        assert all(parameter.grad is None for parameter in model.module.parameters())
        slopes.append(pixels.grad)
    assert slopes[0].abs().max() > 1e-4
    torch.testing.assert_close(slopes[1], slopes[0], rtol=1e-5, atol=1e-7)


def test_judging_gives_the_same_values_without_gradient():
    pixels = samples().requires_grad_()
    signal = RewardSignal([brightness()])
    judged = signal.judge(pixels, ["a", "b", "c"])
    assert not judged.combined.requires_grad
    assert torch.equal(judged.combined, signal.log_odds(pixels, ["a", "b", "c"]).combined)


def test_judging_asks_a_model_in_bounded_pieces_and_keeps_the_order():
    model = Brightness()
    signal = RewardSignal([ModelReward("brightness", model, needs_references=False, images_at_once=2)])
    pixels = samples(5)
    assert torch.equal(signal.judge(pixels, list("abcde")).combined, pixels.mean((1, 2, 3)))
    assert model.asked == [2, 2, 1]


def test_a_black_box_gives_its_own_numbers():
    values = of_scorer(lambda pixels, prompts: [float(len(prompt)) for prompt in prompts]).judge(
        samples(), ["a", "bb", ""]
    )
    assert values.raw["judge"].tolist() == [1.0, 2.0, 0.0]


def test_a_black_box_cannot_be_climbed():
    with pytest.raises(UsageError, match="'judge' has no gradient"):
        of_scorer(lambda *_: [1.0]).log_odds(samples(1), ["a"])


def test_autocast_of_the_caller_holds_inside_the_deadline():
    seen = []
    with torch.autocast("cpu", torch.bfloat16):
        of_scorer(lambda *_: [float(seen.append(torch.is_autocast_enabled("cpu")) or 1)]).judge(samples(1), ["a"])
    assert seen == [True]


# Several rewards


def test_every_reward_is_normalised_before_it_is_weighted():
    pixels = samples(4)
    signal = RewardSignal(
        [brightness(1.0, "small", 2.0), brightness(1_000.0, "large", 1.0)],
        Normalisation(over="batch", floor=1e-6),
    )
    values = signal.log_odds(pixels, list("abcd"))
    small = values.raw["small"]
    unit = (small - small.mean()) / small.std(correction=0)
    # The same pictures in the same order: both normalise to the same, and 2 + 1 = 3 times it is left.
    assert torch.allclose(values.combined, 3 * unit, atol=1e-3)


def test_the_proxy_is_the_mean_of_raw_values_by_weight():
    signal = RewardSignal([brightness(1.0, "one", 3.0), brightness(2.0, "two", 1.0)])
    pixels = samples(2)
    mean = pixels.mean((1, 2, 3))
    # (3 * mean + 1 * 2 * mean) / 4
    assert torch.allclose(signal.judge(pixels, ["a", "b"]).proxy, 5 * mean / 4)


def test_a_vanishing_spread_is_divided_by_the_floor():
    signal = RewardSignal([brightness(weight=0.5)], Normalisation(over="batch", floor=0.1))
    pixels = torch.stack([flat(0.5), flat(0.502)])
    # Standard deviation 0.001 is below the floor: (0.502 - 0.501) / 0.1 * 0.5
    assert signal.judge(pixels, ["a", "b"]).combined[1].item() == pytest.approx(0.005, rel=1e-3)


def test_running_statistics_look_back_with_exponential_forgetting():
    signal = RewardSignal([brightness(weight=2.0)], Normalisation(decay=0.5, floor=1e-3))
    signal.judge(torch.stack([flat(0.0), flat(0.0)]), ["a", "b"])
    combined = signal.judge(torch.stack([flat(1.0), flat(1.0)]), ["a", "b"]).combined
    # Weights of the two batches 0.25 and 0.5, so mean 2/3, mean square 2/3, spread sqrt(2/9): 2 * (1/3) / sqrt(2/9)
    assert combined.tolist() == pytest.approx([math.sqrt(2), math.sqrt(2)])


def test_batches_of_one_rollout_are_normalised_by_the_same_and_seen_once():
    def new() -> RewardSignal:
        return RewardSignal([brightness(1.0, "one"), brightness(3.0, "two", 0.5)])

    pixels, cut, whole = samples(4), new(), new()
    for signal in (cut, whole):
        signal.judge(samples(seed=1), list("abc"))
    halves = [cut.judge(pixels[half], list("ab"), is_training=False) for half in (slice(2), slice(2, 4))]
    together = whole.judge(pixels, list("abab")).combined
    assert torch.equal(cut.combined(halves), together)
    assert cut.state_dict() == whole.state_dict()


def test_an_evaluation_leaves_no_trace_in_the_statistics():
    signal = RewardSignal([brightness(weight=2.0)])
    signal.judge(samples(seed=1), ["a", "b", "c"])
    before = signal.state_dict()
    signal.judge(samples(seed=2), ["a", "b", "c"], is_training=False)
    assert signal.state_dict() == before


def test_a_step_that_fails_leaves_no_trace_in_the_statistics():
    signal = RewardSignal(
        [brightness(weight=2.0), ScorerReward("judge", Calls([math.nan]))], patience=Patience(tries=1)
    )
    before = signal.state_dict()
    with pytest.raises(RewardError):
        signal.judge(samples(1), ["a"])
    assert signal.state_dict() == before


def test_a_resumed_signal_goes_on_bit_for_bit():
    def new() -> RewardSignal:
        return RewardSignal([brightness(1.0, "one"), brightness(3.0, "two", 0.5)])

    straight, first, second = new(), new(), new()
    for signal in (straight, first):
        signal.judge(samples(seed=1), ["a", "b", "c"])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    later = samples(seed=2)
    assert torch.equal(straight.judge(later, list("abc")).combined, second.judge(later, list("abc")).combined)


def test_statistics_of_other_rewards_are_refused():
    with pytest.raises(CheckpointError, match="statistics of other rewards"):
        RewardSignal([brightness(name="one")]).load_state_dict(RewardSignal([brightness(name="two")]).state_dict())


@pytest.mark.parametrize("rewards", [[], [brightness(), brightness()], [brightness(weight=0.0)]])
def test_a_signal_needs_rewards_that_differ_and_count(rewards):
    with pytest.raises(UsageError):
        RewardSignal(rewards)


# Reference images


def against(use: ReferenceUse, references, optimizer_step: int = 0, prompts=("a",)) -> list[float]:
    signal = RewardSignal([brightness(needs_references=True)], references=use, seed=3)
    pixels = torch.stack([flat(1.0)] * len(prompts))
    return signal.judge(pixels, prompts, references, optimizer_step=optimizer_step).combined.tolist()


def test_several_references_give_the_mean_log_odds():
    assert against(ReferenceUse(), [(flat(0.0), flat(0.5))]) == pytest.approx([0.75])


def test_prompts_may_have_different_numbers_of_references_of_different_sizes():
    references = [(flat(0.0), flat(0.5, size=16)), (flat(0.25),)]
    assert against(ReferenceUse(), references, prompts=("a", "b")) == pytest.approx([0.75, 0.75])


def test_the_soft_minimum_lies_between_the_least_and_the_mean():
    references = [(flat(0.0), flat(0.5))]
    cold = against(ReferenceUse("soft_min", temperature=0.01), references)
    warm = against(ReferenceUse("soft_min", temperature=1.0), references)
    hot = against(ReferenceUse("soft_min", temperature=100.0), references)
    # T -> 0: the least, 0.5 (plus T ln 2); T = 1: -ln((e^-1 + e^-0.5) / 2); T -> infinity: the mean, 0.75
    assert cold == pytest.approx([0.5 + 0.01 * math.log(2)], abs=1e-4)
    assert warm == pytest.approx([-math.log((math.exp(-1) + math.exp(-0.5)) / 2)], abs=1e-5)
    assert hot == pytest.approx([0.75], abs=1e-3)


def test_a_random_reference_is_the_same_for_a_whole_group_and_changes_over_steps():
    levels = [0.0, 0.25, 0.5, 0.75]
    references = [tuple(flat(level) for level in levels)] * 3
    use = ReferenceUse("random")
    picks = [against(use, references, step, ("a", "a", "a")) for step in range(20)]
    assert all(len(set(group)) == 1 for group in picks)
    assert {group[0] for group in picks} == {1.0, 0.75, 0.5, 0.25}
    assert picks == [against(use, references, step, ("a", "a", "a")) for step in range(20)]


def test_references_are_read_from_tensors_images_and_files(tmp_path):
    image = Image.new("RGB", (8, 8), (51, 51, 51))  # 51 / 255 = 0.2
    image.save(tmp_path / "grey.png")
    path = tmp_path / "grey.png"
    for reference in (flat(0.2), image, path, str(path), path.read_bytes(), Media(path)):
        assert against(ReferenceUse(), [(reference,)]) == pytest.approx([0.8])


def test_a_missing_reference_is_named_before_anything_is_asked():
    with pytest.raises(UsageError, match="no reference image for the prompt 'b'"):
        against(ReferenceUse(), [(flat(0.0),), ()], prompts=("a", "b"))


# A reward that fails


def test_a_failure_that_passes_is_tried_again():
    scorer = Calls(ConnectionError("away"), [math.nan, 1.0], [1.0, 2.0])
    assert of_scorer(scorer).judge(samples(2), ["a", "b"]).combined.tolist() == [1.0, 2.0]


def test_a_full_gpu_is_no_failed_try():
    scorer = Calls(torch.OutOfMemoryError("CUDA out of memory"), [1.0])
    with pytest.raises(torch.OutOfMemoryError):
        of_scorer(scorer).judge(samples(1), ["a"])
    assert scorer.answers == [[1.0]]


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (ValueError("cuda\nsays no"), "asked 3 times and gave no usable scores: it raised ValueError: cuda says no"),
        ([1.0, math.nan], "it gave nan for the prompt 'two'"),
        ([math.inf, 1.0], "it gave inf for the prompt 'one'"),
        ([1.0], "it gave 1 scores for 2 samples"),
        ([1.0, 2.0, 3.0], "it gave 3 scores for 2 samples"),
        (torch.ones(2, 1), r"an array of shape \(2, 1\) of scores for 2 samples"),
        (torch.ones(2, dtype=torch.int64), "a tensor of torch.int64"),
        ([1.0, None], "it gave NoneType 'None' for a number"),
        (["1.0", "2.0"], "it gave nan for the prompt 'one'"),
        (None, "it gave NoneType where a sequence"),
        (0.5, "it gave float where a sequence"),
    ],
)
def test_what_is_no_score_stops_the_run_with_its_cause_in_one_line(answer, cause):
    scorer = Calls(answer, answer, answer)
    with pytest.raises(RewardError, match=cause) as error:
        of_scorer(scorer).judge(samples(2), ["one", "two"])
    assert scorer.answers == []
    assert "reward 'judge'" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_scorer_that_hangs_is_left_behind_at_its_deadline():
    release = threading.Event()
    started = time.monotonic()
    with pytest.raises(RewardError, match=r"asked 2 times.*did not answer within 0.05 seconds"):
        of_scorer(lambda *_: release.wait(60) and [1.0], Patience(0.05, 2, 0.0)).judge(samples(1), ["a"])
    assert time.monotonic() - started < 5
    release.set()


def test_a_late_answer_is_not_taken_for_that_of_the_next_try():
    release = threading.Event()
    turns = iter([lambda: release.wait(60) and [1.0], lambda: release.set() or time.sleep(0.05) or [2.0]])
    signal = of_scorer(lambda *_: next(turns)(), Patience(0.2, 2, 0.0))
    assert signal.judge(samples(1), ["a"]).combined.tolist() == [2.0]


def test_a_model_that_hangs_is_left_behind_with_its_gradient():
    class Slow(Brightness):
        def reward(self, *arguments):
            time.sleep(0.3)
            return super().reward(*arguments)

    signal = RewardSignal([ModelReward("slow", Slow(), needs_references=False)], patience=Patience(0.05, 1))
    with pytest.raises(RewardError, match="'slow' was asked once"):
        signal.log_odds(samples(1).requires_grad_(), ["a"])


def test_pauses_between_tries_grow(monkeypatch: pytest.MonkeyPatch):
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    with pytest.raises(RewardError):
        of_scorer(Calls(*[OSError("away")] * 4), Patience(None, 4, 0.5)).judge(samples(1), ["a"])
    assert pauses == [0.5, 1.0, 2.0]


def test_what_a_retry_cannot_mend_is_not_tried_again():
    scorer = Calls(UsageError("the question takes 9,000 tokens"), [1.0])
    with pytest.raises(RewardError, match=r"asked once .* 9,000 tokens"):
        of_scorer(scorer).judge(samples(1), ["a"])


def test_pixels_that_are_no_numbers_are_the_generators_fault():
    pixels = samples(2)
    pixels[1, 0, 0, 0] = math.nan
    with pytest.raises(NonFiniteError, match="1 of 2 prompts, first 'b'"):
        RewardSignal([brightness()]).judge(pixels, ["a", "b"])


# A judge behind a service


def test_a_judge_is_asked_about_8_bit_images():
    def judge(requests):
        return [Judgement(Status.OK, reward=float(one.candidate.getpixel((0, 0))[0])) for one in requests]

    signal = RewardSignal([JudgeReward("service", judge, needs_references=False)])
    assert signal.judge(torch.stack([flat(0.2), flat(1.0)]), ["a", "b"]).combined.tolist() == [51.0, 255.0]


def test_a_judgement_without_a_score_stops_the_run():
    failed = Judgement(Status.TOO_LONG, message="the prompt is too long")
    signal = RewardSignal([JudgeReward("service", lambda _: [failed])], patience=HASTY)
    with pytest.raises(RewardError, match=r"'service' .* a judgement is too_long: the prompt is too long"):
        signal.judge(samples(1), ["a"], [(flat(0.0),)])


def test_pixels_round_to_the_nearest_8_bit_value():
    assert image_from_pixels(flat(0.499 / 255)).getpixel((0, 0)) == (0, 0, 0)
    assert image_from_pixels(flat(0.501 / 255)).getpixel((0, 0)) == (1, 1, 1)


@pytest.mark.parametrize("images_at_once", [2, 32])
def test_a_model_with_too_many_answers_is_no_reward_whatever_the_pieces(images_at_once: int):
    class Talkative(Brightness):
        def reward(self, *arguments):
            return super().reward(*arguments).repeat(2)

    model = ModelReward("talkative", Talkative(), needs_references=False, images_at_once=images_at_once)
    with pytest.raises(RewardError, match=r"'talkative' .* scores for 4 samples"):
        RewardSignal([model], patience=HASTY).judge(samples(4), list("abcd"))


def test_a_model_with_too_few_answers_in_one_piece_is_no_reward():
    class Taciturn(Brightness):
        def reward(self, pixels, *arguments):
            return super().reward(pixels[:1], *arguments)

    model = ModelReward("taciturn", Taciturn(), needs_references=False, images_at_once=2)
    with pytest.raises(RewardError, match="'taciturn'"):
        RewardSignal([model], patience=HASTY).judge(samples(4), list("abcd"))


def test_a_reference_image_is_seen_as_everywhere_else():
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 204))  # a fifth of the white behind it shows
    assert against(ReferenceUse(), [(half,)]) == pytest.approx([0.8])


def test_clips_are_judged_in_pieces_of_so_many_frames():
    shapes: list[tuple[int, ...]] = []

    class Watching:
        def reward(self, pixels, prompts, reference_pixels=None, instruction=None):
            shapes.append(tuple(pixels.shape))
            return pixels.mean((1, 2, 3, 4))

    clips = samples(15).reshape(5, 3, 3, 8, 8)
    signal = RewardSignal([ModelReward("any", Watching(), needs_references=False, images_at_once=6)])
    values = signal.judge(clips, ["a"] * 5)
    # Two clips of three frames are six.
    assert [shape[0] for shape in shapes] == [2, 2, 1]
    torch.testing.assert_close(values.combined, clips.mean((1, 2, 3, 4)))
    shapes.clear()
    signal.log_odds(clips.requires_grad_(), ["a"] * 5)
    assert shapes == [(5, 3, 3, 8, 8)]


def test_a_black_box_sees_clips_as_they_are():
    clips = samples(6).reshape(2, 3, 3, 8, 8)
    values = of_scorer(lambda pixels, prompts: pixels.mean((1, 2, 3, 4))).judge(clips, ["a", "b"])
    torch.testing.assert_close(values.combined, clips.mean((1, 2, 3, 4)))


def test_a_judge_of_8_bit_images_is_not_asked_about_clips():
    judge = JudgeReward("judge", lambda requests: [], needs_references=False)
    with pytest.raises(RewardError, match="is asked about finished 8-bit images, and the generator makes clips"):
        RewardSignal([judge], patience=HASTY).judge(samples(6).reshape(2, 3, 3, 8, 8), ["a", "b"])
