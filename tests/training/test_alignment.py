import json
import logging
import shutil
import signal
import threading
from dataclasses import replace

import pytest
import safetensors.torch
import torch
import yaml
from diffusers import SD3Transformer2DModel
from PIL import Image

from rewarddance.config.guard import GuardConfig
from rewarddance.core.errors import (
    CheckpointError,
    DataError,
    DeviceMemoryError,
    MediaError,
    ModelError,
    NonFiniteError,
    RewardError,
    UsageError,
)
from rewarddance.data.references import FailedJudgement, PromptReferences
from rewarddance.rewards.backbones.loading import load_backbone
from rewarddance.training import alignment_run
from rewarddance.training.alignment import align
from rewarddance.training.alignment_inputs import configured_judges, diversity_features
from rewarddance.training.guard import Guard
from rewarddance.training.guard_observation import Observation
from rewarddance.training.guard_verdict import Verdict
from rewarddance.training.prompt_draws import PromptDraws
from rewarddance.training.regulariser import Pretraining
from rewarddance.training.reward_signal import Patience, RewardSignal, ScorerReward
from tests.full_disk import files_end_at
from tests.tiny_models import save_tiny_model
from tests.training.stand_in_generator import (
    AT_ONCE,
    StandInGenerator,
    align_config,
    bench_of,
    darkness,
    pixel_reward,
    redness,
    reward_of,
    rows_of,
)

METHODS = ["refl", "draft", "flow_grpo", "diffusion_nft"]
JUDGES = {"darkness": lambda pixels, prompts: darkness(pixels, prompts).tolist()}


class ScriptedGuard(Guard):
    """Says what it is told to say, at the second evaluation."""

    def __init__(self, action, best_step=0):
        super().__init__(GuardConfig(action=action), JUDGES)
        self.action, self.best_step = action, best_step

    def add(self, observation):
        super().add(observation)
        step = observation.optimizer_step
        action = self.action if step == 2 else "none"
        state = "hacking" if step == 2 else "healthy"
        return Verdict(state, "the judge fell", action, step, self.best_step, (0, 2, 4))


def trained(generator):
    return torch.cat([value.detach().flatten() for value in generator.module.parameters() if value.requires_grad])


@pytest.mark.parametrize("method", METHODS)
def test_a_run_leaves_everything_that_a_report_needs(tmp_path, method):
    result = align(align_config(tmp_path, method), StandInGenerator(), reward_of(), judges=JUDGES)
    metrics, evaluations = rows_of(result.folder / "metrics.jsonl"), rows_of(result.folder / "evaluations.jsonl")
    assert [row["optimizer_step"] for row in metrics] == [1, 2, 3, 4]
    assert [row["optimizer_step"] for row in evaluations] == [0, 2, 4]
    assert evaluations[0]["held_out"].keys() == {"darkness"}
    assert evaluations[0]["kl"] == 0.0 < evaluations[-1]["kl"]
    with Image.open(result.folder / "samples/step-00000004/0-1.png") as picture:
        assert picture.size == (8, 8)
    assert rows_of(result.folder / "samples/prompts.jsonl")[0]["prompt"].startswith("a ")


class Seer:
    """A held-out judge to whom every picture is the same."""

    def __call__(self, pixels, prompts):
        return darkness(pixels, prompts).tolist()

    def features(self, pixels):
        return torch.ones(len(pixels), 3)


@pytest.mark.parametrize("guard", [None, {"action": "none"}])
def test_diversity_is_measured_by_what_the_first_judge_sees(tmp_path, guard):
    def diversity(name, judges, **changes):
        config = align_config(tmp_path / name, judges=[{"model": "unused"}], guard=guard, **changes)
        result = align(config, StandInGenerator(), reward_of(), judges=judges)
        return [row["diversity"] for row in rows_of(result.folder / "evaluations.jsonl")]

    assert diversity("seen", {"seer": Seer(), **JUDGES}) == [0.0, 0.0, 0.0]
    by_pixels = diversity("pixels", {"seer": Seer()}, diversity_features="pixels")
    assert min(by_pixels) > 0
    assert diversity("unseen", JUDGES) == by_pixels


def test_a_configured_judge_shows_what_its_vision_tower_makes_of_pictures(tmp_path):
    folder = save_tiny_model("internvl", tmp_path / "judge")
    config = align_config(tmp_path, judges=[{"model": str(folder)}], evaluation_batch_size=2)
    judges = configured_judges(config, lambda prompts: None)
    pixels = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    backbone = load_backbone(folder)
    alone = [backbone.picture_vectors(backbone.pictures_from_pixels(one[None])) for one in pixels]
    torch.testing.assert_close(diversity_features(config, judges)(pixels), torch.cat(alone), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lora", [{"rank": 4}, None])
def test_the_saved_generator_is_the_tuned_one(tmp_path, lora):
    generator = StandInGenerator()
    config = align_config(tmp_path, generator={"path": "unused", "lora": lora})
    result = align(config, generator, reward_of())
    saved = SD3Transformer2DModel.from_pretrained(result.generator_folder / "transformer")
    again = StandInGenerator()
    conditions, latents = again.encode(["a red thing"]), again.initial_noise([1])
    untuned = again.velocity(latents, torch.tensor([0.5]), conditions)
    again._network = saved
    with torch.no_grad():
        reloaded = again.velocity(latents, torch.tensor([0.5]), conditions)
        tuned = generator.velocity(latents, torch.tensor([0.5]), conditions)
    torch.testing.assert_close(reloaded, tuned, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(tuned, untuned, atol=1e-4)


def test_the_adapter_folder_loads_into_a_plain_diffusers_network(tmp_path):
    generator = StandInGenerator()
    result = align(align_config(tmp_path), generator, reward_of())
    plain = StandInGenerator()
    plain.module.load_lora_adapter(str(result.folder / "adapter"), prefix="transformer", use_safetensors=True)
    conditions, latents = plain.encode(["a red thing"]), plain.initial_noise([1])
    with torch.no_grad():
        here = generator.velocity(latents, torch.tensor([0.5]), conditions)
        there = plain.velocity(latents, torch.tensor([0.5]), conditions)
    torch.testing.assert_close(there, here)


def test_a_reader_that_knows_of_no_metadata_gets_the_whole_adapter(tmp_path):
    """Such readers take alpha for the rank."""
    lora = {"rank": 4, "alpha": 8.0}
    generator = StandInGenerator()
    result = align(align_config(tmp_path, generator={"path": "unused", "lora": lora}), generator, reward_of())
    tensors = safetensors.torch.load_file(next((result.folder / "adapter").glob("*.safetensors")))
    plain = StandInGenerator()
    plain.module.load_lora_adapter(tensors, prefix="transformer")
    conditions, latents = plain.encode(["a red thing"]), plain.initial_noise([1])
    with torch.no_grad():
        here = generator.velocity(latents, torch.tensor([0.5]), conditions)
        there = plain.velocity(latents, torch.tensor([0.5]), conditions)
    torch.testing.assert_close(there, here)


@pytest.mark.parametrize("lora", [{"rank": 4}, None])
def test_the_reference_policy_stays_what_the_run_began_with(tmp_path, lora):
    generator, untouched = StandInGenerator(), StandInGenerator()
    seen = []

    def compare(tuned, step):
        conditions, latents = tuned.encode(["a red thing"]), tuned.initial_noise([1])
        sigma = torch.tensor([0.5])
        with torch.no_grad():
            seen.append(tuned.velocity(latents, sigma, conditions) - untouched.velocity(latents, sigma, conditions))
        return {}

    align(align_config(tmp_path, generator={"path": "unused", "lora": lora}), generator, reward_of(), evaluate=compare)
    assert torch.equal(seen[0], torch.zeros_like(seen[0]))
    assert seen[-1].abs().max() > 1e-4
    rows = rows_of(tmp_path / "run/evaluations.jsonl")
    assert rows[0]["kl"] == 0.0 < rows[-1]["kl"]


def test_extra_curves_stand_in_the_evaluations_and_what_is_not_finite_is_unknown(tmp_path):
    curves = {"gold": 0.5, "kind:colour": float("nan")}
    result = align(align_config(tmp_path), StandInGenerator(), reward_of(), evaluate=lambda generator, step: curves)
    assert rows_of(result.folder / "evaluations.jsonl")[0]["extra"] == {"gold": 0.5, "kind:colour": None}


def test_two_rewards_are_both_raised(tmp_path):
    reward = RewardSignal([pixel_reward("red", redness), pixel_reward("dark", darkness, 0.5)], patience=AT_ONCE)
    config = align_config(tmp_path, optimizer_steps=20, evaluate_every=20, samples_every=20)
    align(config, StandInGenerator(), reward, judges=JUDGES)
    before, after = rows_of(tmp_path / "run/evaluations.jsonl")
    assert after["held_out"]["darkness"] > before["held_out"]["darkness"]
    assert after["proxy"] > before["proxy"]


def test_a_reward_without_gradient_is_refused_where_one_is_needed(tmp_path):
    scorer = RewardSignal([ScorerReward("red", lambda pixels, prompts: redness(pixels, prompts).tolist())])
    with pytest.raises(UsageError, match="choose flow_grpo or diffusion_nft"):
        align(align_config(tmp_path), StandInGenerator(), scorer)
    assert not (tmp_path / "run").exists()


def test_layers_that_do_not_exist_are_named_before_the_folder_is_claimed(tmp_path):
    config = align_config(tmp_path, generator={"path": "unused", "lora": {"target_modules": ["qkv"]}})
    with pytest.raises(UsageError, match=r"\['qkv'\] name no layer.*to_q"):
        align(config, StandInGenerator(), reward_of())
    assert not (tmp_path / "run").exists()


def raising(pixels, prompts):
    raise ConnectionError("the service is away")


def hanging(pixels, prompts):
    threading.Event().wait(2)
    return redness(pixels, prompts)


BROKEN = {
    "raises": (raising, "the service is away"),
    "hangs": (hanging, "did not answer within 0.2 seconds"),
    "not_a_number": (lambda pixels, prompts: redness(pixels, prompts) * torch.nan, "gave nan for the prompt"),
    "too_few": (lambda pixels, prompts: redness(pixels, prompts)[:-1], "gave 7 scores for 8 samples"),
}


@pytest.mark.parametrize("way", BROKEN)
@pytest.mark.parametrize("method", ["refl", "flow_grpo"])
def test_a_reward_that_breaks_stops_the_run_resumable_with_one_line(tmp_path, method, way):
    calls = []
    broken, message = BROKEN[way]

    def breaking(pixels, prompts):
        calls.append(1)
        return (broken if len(calls) > 5 else redness)(pixels, prompts)

    patience = Patience(0.2 if way == "hangs" else None, tries=2, backoff_seconds=0.0)
    with pytest.raises(RewardError, match=message) as caught:
        align(
            align_config(tmp_path, method),
            StandInGenerator(),
            RewardSignal([pixel_reward("redness", breaking)], patience=patience),
        )
    assert "\n" not in str(caught.value)
    assert len(calls) == 7  # two tries
    resumed = align(align_config(tmp_path, method), StandInGenerator(), reward_of(), resume=True)
    whole = align(align_config(tmp_path / "whole", method), StandInGenerator(), reward_of())
    assert final_weights(resumed) == final_weights(whole)


@pytest.mark.parametrize("method", METHODS)
def test_a_full_gpu_ends_the_run_resumable_with_one_line(tmp_path, method):
    calls = []

    def greedy(pixels, prompts):
        calls.append(1)
        if len(calls) == limit:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")
        return redness(pixels, prompts)

    # One call an evaluation and one a batch: in the fourth update, or the second rollout of two batches.
    limit = 6
    config = align_config(tmp_path, method, save_every=4)
    reward = RewardSignal([pixel_reward("redness", greedy)], patience=Patience(tries=3))
    with pytest.raises(DeviceMemoryError, match=r"--resume with what .*\.gradient_checkpointing=true") as caught:
        align(config, StandInGenerator(), reward)
    assert "\n" not in str(caught.value)
    assert len(calls) == limit  # asked once: it would be full again
    saved = {"refl": 3, "draft": 3, "flow_grpo": 2, "diffusion_nft": 2}[method]
    assert (tmp_path / f"run/checkpoints/step-{saved:08d}").is_dir()
    resumed = align(config, StandInGenerator(), reward_of(), resume=True)
    whole = align(align_config(tmp_path / "whole", method), StandInGenerator(), reward_of())
    assert final_weights(resumed) == final_weights(whole)


@pytest.mark.parametrize(("method", "update"), [("refl", 2), ("flow_grpo", 2), ("diffusion_nft", 2)])
def test_an_update_that_breaks_off_is_not_saved(tmp_path, method, update, monkeypatch):
    config = align_config(tmp_path, method, save_every=4, evaluate_every=4, samples_every=4)
    original, calls = torch.optim.AdamW.step, []

    def step(optimizer, *arguments):
        calls.append(1)
        original(optimizer, *arguments)
        if len(calls) == update:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        with pytest.raises(DeviceMemoryError):
            align(config, StandInGenerator(), reward_of())
    assert not list((tmp_path / "run/checkpoints").glob("step-*"))


def final_weights(result):
    last = max((result.folder / "checkpoints").glob("step-*"))
    tensors = safetensors.torch.load_file(last / "weights.safetensors")
    return {name: value.tolist() for name, value in tensors.items()}


def test_a_judge_that_fails_is_asked_again_after_a_resume(tmp_path):
    answers = iter([[0.0] * 6, [float("nan")] * 6])
    with pytest.raises(RewardError, match="not finite"):
        align(align_config(tmp_path), StandInGenerator(), reward_of(), judges={"judge": lambda *_: next(answers)})
    assert [row["optimizer_step"] for row in rows_of(tmp_path / "run/evaluations.jsonl")] == [0]
    judges = {"judge": lambda pixels, prompts: [1.0] * len(prompts)}
    align(align_config(tmp_path), StandInGenerator(), reward_of(), judges=judges, resume=True)
    assert [row["optimizer_step"] for row in rows_of(tmp_path / "run/evaluations.jsonl")] == [0, 2, 4]


def test_a_loss_that_is_not_finite_stops_and_names_prompts(tmp_path):
    class Broken(StandInGenerator):
        def velocity(self, latents, sigma, conditions, guidance=None):
            answer = super().velocity(latents, sigma, conditions, guidance)
            return answer * float("inf") if answer.requires_grad else answer

        def decode(self, latents, size=None):
            return super().decode(latents.nan_to_num())

    regulariser = {"velocity_weight": 1.0}
    with pytest.raises(NonFiniteError, match=r"prompts .*thing"):
        align(align_config(tmp_path, regulariser=regulariser), Broken(), reward_of())


def test_the_guard_stops_a_run(tmp_path):
    generator = StandInGenerator()
    result = align(align_config(tmp_path), generator, reward_of(), guard=ScriptedGuard("stop"))
    assert (result.ending, result.verdict, result.optimizer_steps) == ("stop", "hacking", 2)
    assert trained(generator).abs().max() > 0
    assert rows_of(result.folder / "evaluations.jsonl")[-1]["action"] == "stop"


def test_the_guard_rolls_back_to_the_best_checkpoint(tmp_path):
    generator = StandInGenerator()
    result = align(align_config(tmp_path), generator, reward_of(), guard=ScriptedGuard("roll_back", best_step=0))
    assert (result.ending, result.best_step) == ("roll_back", 0)
    untuned = StandInGenerator()
    conditions, latents = untuned.encode(["a red thing"]), untuned.initial_noise([1])
    with torch.no_grad():
        back = generator.velocity(latents, torch.tensor([0.5]), conditions)
        base = untuned.velocity(latents, torch.tensor([0.5]), conditions)
    assert torch.equal(back, base)


def test_a_roll_back_to_a_lost_checkpoint_is_an_error(tmp_path):
    guard = ScriptedGuard("roll_back", best_step=1)
    with pytest.raises(CheckpointError, match="rolls back to optimizer step 1"):
        align(align_config(tmp_path), StandInGenerator(), reward_of(), guard=guard)


def test_every_checkpoint_that_the_guard_may_want_stays(tmp_path):
    config = align_config(tmp_path, save_every=1, keep_checkpoints=1)
    align(config, StandInGenerator(), reward_of(), guard=ScriptedGuard("none"))
    kept = sorted(int(path.name[-8:]) for path in (tmp_path / "run/checkpoints").glob("step-*"))
    assert kept == [0, 2, 3, 4]


def test_the_guard_raises_the_pull_towards_the_reference_policy(tmp_path):
    config = align_config(tmp_path, regulariser={"velocity_weight": 1.0}, keep_checkpoints=9)
    result = align(config, StandInGenerator(), reward_of(), guard=ScriptedGuard("raise_kl"))
    progress = json.loads((result.folder / "checkpoints/step-00000004/progress.json").read_text(encoding="utf-8"))
    assert progress["pull"] == 3.0
    plain = align(
        align_config(tmp_path / "plain", regulariser={"velocity_weight": 1.0}),
        StandInGenerator(),
        reward_of(),
        guard=ScriptedGuard("none"),
    )
    losses = [[row["loss"] for row in rows_of(run.folder / "metrics.jsonl")] for run in (result, plain)]
    assert losses[0][:2] == losses[1][:2]
    assert losses[0][2] > losses[1][2]


def test_the_pull_has_a_limit(tmp_path):
    class Insistent(ScriptedGuard):
        def add(self, observation):
            verdict = super().add(observation)
            return replace(verdict, action="raise_kl" if observation.optimizer_step else "none")

    settings = {"regulariser": {"velocity_weight": 1.0}, "optimizer_steps": 10, "keep_checkpoints": 9}
    result = align(align_config(tmp_path, **settings), StandInGenerator(), reward_of(), guard=Insistent("none"))
    places = [result.folder / f"checkpoints/step-{step:08d}/progress.json" for step in (2, 4, 6, 8)]
    pulls = [json.loads(place.read_text(encoding="utf-8"))["pull"] for place in places]
    assert pulls == [3.0, 9.0, 27.0, 27.0]
    # There is nothing harder: the run goes back to its best.
    assert (result.ending, result.optimizer_steps, result.kept_step) == ("roll_back", 8, 0)
    assert rows_of(result.folder / "evaluations.jsonl")[-1]["action"] == "roll_back"


@pytest.mark.parametrize("is_worse", [True, False])
def test_a_run_whose_cure_did_not_help_leaves_its_best_policy_behind(tmp_path, is_worse):
    class Honest(ScriptedGuard):
        def add(self, observation):
            verdict = super().add(observation)
            return replace(verdict, best_step=2, ends_at_best=is_worse and observation.optimizer_step > 0)

    generator = StandInGenerator()
    settings = {"regulariser": {"velocity_weight": 1.0}, "optimizer_steps": 6}
    result = align(align_config(tmp_path, **settings), generator, reward_of(), guard=Honest("raise_kl"))
    rows = rows_of(result.folder / "evaluations.jsonl")
    assert [row["action"] for row in rows] == ["none", "raise_kl", "none", "roll_back" if is_worse else "none"]
    assert (result.ending, result.kept_step) == (("roll_back", 2) if is_worse else ("complete", 6))
    assert (result.optimizer_steps, result.best_step) == (6, 2)
    best = safetensors.torch.load_file(result.folder / "checkpoints/step-00000002/weights.safetensors")
    now = dict(generator.module.named_parameters())
    assert all(torch.equal(now[name.removeprefix("policy/")], value) for name, value in best.items()) == is_worse


PROMPTS = ("a red thing", "a blue thing", "a small green thing", "a small red thing")


def white_references(prompts):
    return [[torch.ones(3, 8, 8)]] * len(prompts)


class References:
    """A store with one reference picture, which knows the step at which it was made, but none for some prompts."""

    def __init__(self, step, without=()):
        self.step, self.without = step, without

    def best(self, prompt, count=None):
        return () if prompt in self.without else (torch.full((3, 8, 8), self.step / 10),)

    def lacking(self, prompts):
        return tuple(prompt for prompt in prompts if prompt in self.without)

    def get(self, prompt):
        failures = (FailedJudgement(1, 2, "failed", "the service is away"),)
        return PromptReferences("0", prompt, (), failures, "only 0 of 16 candidates could be judged, and 2 are needed")


def test_references_are_made_anew_by_the_running_mean_of_the_policy(tmp_path):
    made = []

    def refresh(generator, step, prompts):
        made.append((step, trained(generator).clone()))
        return References(step)

    generator = StandInGenerator()
    config = align_config(tmp_path, references={"refresh_every": 2, "ema_decay": 0.5})
    align(config, generator, reward_of(), refresh_references=refresh)
    # Not at step 4, the end, where nobody would be judged against them.
    assert [step for step, _ in made] == [2]
    assert not torch.equal(made[-1][1], trained(generator))


def test_references_are_made_anew_only_of_prompts_that_are_drawn_before_the_next(tmp_path):
    asked = []

    def refresh(generator, step, prompts):
        asked.append(prompts)
        return References(step, without={*PROMPTS} - {*prompts} | {"a small thing"})

    (tmp_path / "held_out.txt").write_text("a small thing\n", encoding="utf-8")
    prompts = {"train": str(tmp_path / "prompts.txt"), "held_out": str(tmp_path / "held_out.txt")}
    config = align_config(tmp_path, references={"refresh_every": 2}, prompts=prompts, batch_size=1, optimizer_steps=5)
    reward = RewardSignal([replace(pixel_reward("redness", redness), needs_references=True)])
    align(config, StandInGenerator(), reward, references=white_references, refresh_references=refresh)
    draws = PromptDraws(config.seed, PROMPTS, 1)
    # After step 2, for steps 3 and 4; after step 4, for the last.
    assert asked == [draws.drawn(2, 2), draws.drawn(4, 1)]


def test_the_guard_has_references_made_anew(tmp_path):
    steps = []

    def refresh(generator, step, prompts):
        steps.append(step)
        return References(step)

    align(
        align_config(tmp_path),
        StandInGenerator(),
        reward_of(),
        guard=ScriptedGuard("refresh_references"),
        refresh_references=refresh,
    )
    assert steps == [2]


def test_at_the_end_of_a_run_the_guard_has_no_references_made(tmp_path):
    config = align_config(tmp_path, optimizer_steps=2)
    guard, steps = ScriptedGuard("refresh_references"), []
    align(config, StandInGenerator(), reward_of(), guard=guard, refresh_references=lambda *_: steps.append(2))
    assert steps == []


@pytest.mark.parametrize("by", ["the clock", "the guard"])
@pytest.mark.parametrize("outage", [References(2, without=("a red thing",)), ModelError("the service is away")])
def test_a_run_without_some_of_its_new_references_saves_and_can_be_resumed(tmp_path, by, outage):
    answers = [outage]

    def refresh(generator, step, prompts):
        answer = answers.pop() if answers else References(step)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def once_more(folder, resume):
        references = {"refresh_every": 2 if by == "the clock" else None}
        guard = ScriptedGuard("refresh_references" if by == "the guard" else "none")
        config = align_config(folder, references=references, save_every=4)
        return align(config, StandInGenerator(), reward_of(), guard=guard, refresh_references=refresh, resume=resume)

    with pytest.raises((RewardError, ModelError), match="the service is away") as caught:
        once_more(tmp_path, resume=False)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "run/checkpoints/step-00000002").is_dir()
    assert final_weights(once_more(tmp_path, resume=True)) == final_weights(once_more(tmp_path / "whole", resume=False))


def test_the_first_prompt_without_new_references_is_named_with_its_failure(tmp_path):
    config = align_config(tmp_path, references={"refresh_every": 2})
    made = References(2, without=("a blue thing",))
    words = r"missing for 1 of 4 prompts, first 'a blue thing': only 0 of 16 .* \(failed: the service is away\)"
    with pytest.raises(RewardError, match=words):
        align(config, StandInGenerator(), reward_of(), refresh_references=lambda *_: made)


def test_new_references_that_nobody_can_make_are_refused_at_once(tmp_path):
    config = align_config(tmp_path, references={"refresh_every": 2})
    with pytest.raises(UsageError, match="pass refresh_references"):
        align(config, StandInGenerator(), reward_of())


def test_a_hacking_verdict_is_said_in_one_line(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, alignment_run.__name__):
        align(align_config(tmp_path), StandInGenerator(), reward_of(), guard=ScriptedGuard("stop"))
    assert [record.getMessage() for record in caplog.records] == ["optimizer step 2: hacking: the judge fell"]


def test_pictures_of_a_data_set_hold_the_policy_where_they_are(tmp_path):
    Image.new("RGB", (20, 10), (200, 0, 0)).save(tmp_path / "red.png")
    data = tmp_path / "pictures.jsonl"
    data.write_text(json.dumps({"prompt": "a red thing", "image": "red.png"}) + "\n", encoding="utf-8")
    regulariser = {"pretraining_weight": 1.0, "pretraining_data": str(data)}
    result = align(align_config(tmp_path, regulariser=regulariser), StandInGenerator(), reward_of())
    assert rows_of(result.folder / "metrics.jsonl")[0]["method"]["pretraining_loss"] > 0


def test_the_references_may_be_the_data_set_and_are_looked_up_anew(tmp_path):
    regulariser = {"pretraining_weight": 1.0, "pretraining_data": "references"}
    bench = bench_of(align_config(tmp_path, regulariser=regulariser))
    asked = []

    def white(prompts):
        asked.append(tuple(prompts))
        return [[torch.ones(3, 4, 16)] for _ in prompts]

    bench.references = white
    ((prompts, latents),) = [Pretraining(bench)._pictures(0, 0)]
    (part,) = Pretraining(bench).parts(0)
    assert prompts == part.prompts == asked[-1]
    assert torch.equal(latents, bench.policy.generator.latents_of(torch.ones(8, 3, 8, 8)))
    assert part.loss.requires_grad


class Asked(StandInGenerator):
    """Remembers at what guidance it was asked, which the empty prompt gives it or a number."""

    def __init__(self, is_told):
        super().__init__()
        self.is_told, self.guidance = is_told, []

    def encode(self, prompts, size=None):
        conditions = super().encode(prompts, size)
        blank = {name: torch.zeros_like(value) for name, value in conditions.positive.items()}
        return conditions if self.is_told else replace(conditions, negative=blank)

    def velocity(self, latents, sigma, conditions, guidance=None):
        self.guidance.append(guidance)
        return super().velocity(latents, sigma, conditions, guidance)


@pytest.mark.parametrize(("is_told", "guidance"), [(False, 1.0), (True, 3.5)])
def test_the_reference_policy_makes_pictures_at_the_guidance_that_they_are_learned_at(tmp_path, is_told, guidance):
    config = align_config(tmp_path, regulariser={"pretraining_weight": 1.0}, sampling={"guidance": 3.5})
    generator = Asked(is_told)
    (part,) = Pretraining(bench_of(config, generator=generator)).parts(0)
    # Four denoising steps and the velocity that learns.
    assert generator.guidance == 5 * [guidance]
    assert part.loss.requires_grad


def test_the_pretraining_term_ends_when_the_config_says(tmp_path):
    regulariser = {"pretraining_weight": 1.0, "pretraining_steps": 2}
    result = align(align_config(tmp_path, regulariser=regulariser), StandInGenerator(), reward_of())
    steps = rows_of(result.folder / "metrics.jsonl")
    assert ["pretraining_loss" in row["method"] for row in steps] == [True, True, False, False]


def test_references_cannot_be_the_data_set_of_a_run_without(tmp_path):
    regulariser = {"pretraining_weight": 1.0, "pretraining_data": "references"}
    with pytest.raises(UsageError, match="judged against none"):
        align(align_config(tmp_path, regulariser=regulariser), StandInGenerator(), reward_of())


def test_pictures_for_a_generator_that_cannot_read_them_are_refused(tmp_path):
    class Blind(StandInGenerator):
        latents_of = None

    data = tmp_path / "pictures.jsonl"
    data.write_text(json.dumps({"prompt": "a", "image": "a.png"}) + "\n", encoding="utf-8")
    regulariser = {"pretraining_weight": 1.0, "pretraining_data": str(data)}
    with pytest.raises(UsageError, match="cannot read pictures"):
        align(align_config(tmp_path, regulariser=regulariser), Blind(), reward_of())


@pytest.mark.parametrize("text", ["", "a: [", "- a\n", "\x00"])
def test_a_damaged_config_of_a_run_is_one_line(tmp_path, text):
    align(align_config(tmp_path), StandInGenerator(), reward_of())
    (tmp_path / "run/config.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=r"config\.yaml is not the config of a run: it is empty or damaged"):
        align(align_config(tmp_path), StandInGenerator(), reward_of(), resume=True)
    (tmp_path / "run/config.yaml").write_text("batch_size: many\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"with another .*batch_size"):
        align(align_config(tmp_path), StandInGenerator(), reward_of(), resume=True)


class Overflowing(StandInGenerator):
    """Its pictures are no longer finite once it was updated, or never are."""

    def __init__(self, from_step):
        super().__init__()
        self.from_step = from_step

    def decode(self, latents, size=None):
        is_updated = any(value.any() for name, value in self.module.named_parameters() if "lora_B" in name)
        return super().decode(latents, size) * (torch.nan if is_updated >= self.from_step else 1.0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("from_step", "advice"),
    [(0, "begin another run with a smaller sampling.guidance"), (1, "resume with a smaller optimizer.learning_rate")],
)
def test_pictures_that_are_not_finite_before_any_update_are_not_put_down_to_one(tmp_path, method, from_step, advice):
    with pytest.raises(NonFiniteError, match=advice):
        align(align_config(tmp_path, method), Overflowing(from_step), reward_of())


def test_an_evaluation_knows_whether_the_policy_was_updated(tmp_path):
    config = align_config(tmp_path, evaluate_every=1, samples_every=1, optimizer_steps=1)
    with pytest.raises(NonFiniteError, match=r"resume with a smaller optimizer\.learning_rate"):
        align(config, Overflowing(1), reward_of())


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"augmentation": {"shift": 8}}, "augmentation.shift is 8"),
        ({"judges": [{"model": "one"}, {"model": "two", "shift": 500}]}, "judges.1.shift is 500"),
    ],
)
def test_a_shift_as_large_as_the_pictures_is_refused(tmp_path, changes, key):
    with pytest.raises(UsageError, match=f"{key}, and pictures are 8 by 8 pixels"):
        align(align_config(tmp_path, **changes), StandInGenerator(), reward_of(), judges=JUDGES)
    assert not (tmp_path / "run").exists()


def test_a_rank_beyond_every_layer_is_refused(tmp_path):
    lora = {"rank": 99_999_999, "target_modules": ["to_q"]}
    with pytest.raises(UsageError, match=r"generator\.lora\.rank is 99,999,999, .*to_q, is 16 by 16; take 16 at most"):
        align(align_config(tmp_path, generator={"path": "unused", "lora": lora}), StandInGenerator(), reward_of())
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_a_run_is_not_overwritten(tmp_path):
    align(align_config(tmp_path), StandInGenerator(), reward_of())
    with pytest.raises(UsageError, match="holds a run already"):
        align(align_config(tmp_path), StandInGenerator(), reward_of())


class TooLarge(StandInGenerator):
    """Finds the disk full at the very end of a run."""

    def save(self, folder):
        with files_end_at(1000):
            super().save(folder)


def test_a_disk_that_is_full_at_the_end_is_one_line_and_the_run_goes_on_with_room(tmp_path):
    with pytest.raises(CheckpointError, match=r"make room and continue the run") as caught:
        align(align_config(tmp_path), TooLarge(), reward_of())
    assert f"{tmp_path / 'run' / 'generator'} could not be written" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "run").glob("*generator*"))
    (checkpoint,) = (tmp_path / "run/checkpoints").glob("step-00000004")
    before = {path: path.read_bytes() for path in checkpoint.iterdir()}
    assert align(align_config(tmp_path), StandInGenerator(), reward_of(), resume=True).is_finished
    assert all(path.read_bytes() == content for path, content in before.items())


@pytest.mark.parametrize("resume", [False, True])
def test_one_run_at_a_time_has_a_folder(tmp_path, resume):
    refused = []

    def begin_again(_):
        with pytest.raises(UsageError, match="being written by another process"):
            align(align_config(tmp_path), StandInGenerator(), reward_of(), resume=resume)
        refused.append(True)

    align(align_config(tmp_path), StandInGenerator(), reward_of(), on_step=begin_again)
    assert len(refused) == 4


def test_a_resumed_run_with_other_prompts_is_refused_and_goes_on_once_they_are_back(tmp_path):
    config = align_config(tmp_path)
    align(config, StandInGenerator(), reward_of())
    shutil.rmtree(tmp_path / "run/checkpoints/step-00000004")
    before = config.prompts.train.read_text(encoding="utf-8")
    config.prompts.train.write_text("a green thing\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"what prompts\.train names is not what the run has read so far"):
        align(config, StandInGenerator(), reward_of(), resume=True)
    config.prompts.train.write_text(before, encoding="utf-8")
    assert align(config, StandInGenerator(), reward_of(), resume=True).is_finished


def test_parts_that_the_caller_made_may_change_and_what_the_config_names_instead_is_not_read(tmp_path):
    for name in ("generator", "reward", "judge"):
        (tmp_path / name).mkdir()
    names = {"rewards": [{"model": str(tmp_path / "reward")}], "judges": [{"model": str(tmp_path / "judge")}]}
    config = align_config(tmp_path, generator={"path": str(tmp_path / "generator")}, **names)
    align(config, StandInGenerator(), reward_of(), judges=JUDGES)
    for name in ("generator", "reward", "judge"):
        (tmp_path / name / "weights").touch()
    assert align(config, StandInGenerator(), reward_of(), judges=JUDGES, resume=True).is_finished


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"optimizer": {"learning_rate": 5e-3, "warmup_share": 0.5}}, "another optimizer.warmup_share;"),
        (
            {"rewards": [{"model": "unused_reward"}, {"model": "more"}]},
            "another rewards.1.dtype, rewards.1.model, rewards.1.weight;",
        ),
        ({"batch_size": 4}, "another batch_size;"),
    ],
)
def test_a_setting_that_decides_the_run_is_no_resume_and_named(tmp_path, changes, key):
    align(align_config(tmp_path), StandInGenerator(), reward_of())
    with pytest.raises(UsageError, match=key):
        align(align_config(tmp_path, **changes), StandInGenerator(), reward_of(), resume=True)


def test_what_errors_advise_can_be_changed_and_is_noted_with_its_step(tmp_path):
    align(align_config(tmp_path), StandInGenerator(), reward_of(), guard=ScriptedGuard("stop"))
    last = tmp_path / "run/checkpoints/step-00000002"
    progress = json.loads((last / "progress.json").read_text(encoding="utf-8"))
    assert progress["ending"] == "stop"
    changes = {"optimizer": {"learning_rate": 1e-6, "warmup_share": 0.0}, "batch_size": 4, "gradient_accumulation": 2}
    align(align_config(tmp_path, **changes), StandInGenerator(), reward_of(), resume=True)
    assert rows_of(tmp_path / "run/changes.jsonl") == [
        {"optimizer_step": 2, "key": "batch_size", "before": 8, "now": 4},
        {"optimizer_step": 2, "key": "gradient_accumulation", "before": 1, "now": 2},
        {"optimizer_step": 2, "key": "optimizer.learning_rate", "before": 5e-3, "now": 1e-6},
    ]


def test_a_key_that_came_later_than_the_run_has_its_default(tmp_path):
    align(align_config(tmp_path), StandInGenerator(), reward_of(), guard=ScriptedGuard("stop"))
    path = tmp_path / "run" / "config.yaml"
    stored = yaml.safe_load(path.read_text())
    for key in ("reward_normalisation", "reward_patience", "evaluation_sampling"):
        del stored[key]
    del stored["references"]["soft_min_temperature"]
    path.write_text(yaml.safe_dump(stored))
    with pytest.raises(UsageError, match=r"another reward_normalisation\.decay;"):
        align(align_config(tmp_path, reward_normalisation={"decay": 0.5}), StandInGenerator(), reward_of(), resume=True)
    align(
        align_config(tmp_path, reward_patience={"tries": 1}, optimizer_steps=4),
        StandInGenerator(),
        reward_of(),
        resume=True,
    )
    assert not (tmp_path / "run" / "changes.jsonl").exists()


def served(folder, **service):
    reward = {"model": "judge", "service": {"url": "http://one/v1", "served_model": "judge", **service}}
    return align_config(folder, "flow_grpo", rewards=[reward])


def test_a_reward_server_may_move(tmp_path):
    align(served(tmp_path), StandInGenerator(), reward_of())
    moved = served(tmp_path, url="http://two/v1", concurrency=4)
    align(moved, StandInGenerator(), reward_of(), resume=True)
    (row,) = rows_of(tmp_path / "run/changes.jsonl")
    assert (row["key"], row["now"]) == ("rewards.0.service.url", "http://two/v1")
    (reward,) = moved.rewards
    heavier = moved.model_copy(update={"rewards": (reward.model_copy(update={"weight": 2.0}),)})
    with pytest.raises(UsageError, match=r"another rewards\.0\.weight;"):
        align(heavier, StandInGenerator(), reward_of(), resume=True)


def test_a_judge_server_may_move(tmp_path):
    def judged(url, **service):
        judge = {"model": "judge", "service": {"url": url, "served_model": "judge", **service}}
        return align_config(tmp_path, judges=[judge])

    align(judged("http://one/v1"), StandInGenerator(), reward_of(), judges=JUDGES)
    align(judged("http://two/v1", concurrency=4), StandInGenerator(), reward_of(), judges=JUDGES, resume=True)
    (row,) = rows_of(tmp_path / "run/changes.jsonl")
    assert (row["key"], row["now"]) == ("judges.0.service.url", "http://two/v1")


def test_a_run_that_was_begun_before_a_key_came_is_resumed_with_the_key_s_default(tmp_path):
    align(align_config(tmp_path), StandInGenerator(), reward_of(), guard=ScriptedGuard("stop"))
    stored = tmp_path / "run/config.yaml"
    lines = stored.read_text(encoding="utf-8").splitlines(keepends=True)
    stored.write_text("".join(line for line in lines if "dtype:" not in line), encoding="utf-8")
    align(align_config(tmp_path), StandInGenerator(), reward_of(), resume=True)
    assert not (tmp_path / "run/changes.jsonl").exists()
    other = align_config(tmp_path, rewards=[{"model": "unused_reward", "dtype": "bfloat16"}])
    with pytest.raises(UsageError, match=r"another rewards\.0\.dtype;"):
        align(other, StandInGenerator(), reward_of(), resume=True)


def test_several_processes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="one process"):
        align(align_config(tmp_path), StandInGenerator(), reward_of())


def test_an_evaluation_may_have_a_batch_size_of_its_own(tmp_path):
    """The pictures are the same; only how many are made and judged at once differs."""
    seen: dict[int | None, list[int]] = {}
    rows = {}
    for size in (None, 4):
        seen[size] = sizes = []

        def score(pixels, prompts, sizes=sizes):
            if not torch.is_grad_enabled():
                sizes.append(len(pixels))
            return redness(pixels, prompts)

        config = align_config(tmp_path / str(size), evaluation_batch_size=size)
        align(config, StandInGenerator(), reward_of(score))
        rows[size] = rows_of(tmp_path / str(size) / "run" / "evaluations.jsonl")

    assert (seen[None], seen[4]) == ([6] * 3, [4, 2] * 3)
    assert [row["proxy"] for row in rows[4]] == pytest.approx([row["proxy"] for row in rows[None]], abs=1e-5)


def test_evaluations_may_sample_otherwise_than_training(tmp_path):
    """They see what a run that samples like them sees before its first update, and training is what it was."""

    class Listening(StandInGenerator):
        def __init__(self):
            super().__init__()
            self.asked = []

        def velocity(self, latents, sigma, conditions, guidance=None):
            self.asked.append((torch.is_grad_enabled(), guidance))
            return super().velocity(latents, sigma, conditions, guidance)

    few = {"sampling": {"denoising_steps": 3, "guidance": 1.0}}
    many = {"denoising_steps": 9, "guidance": 4.0}
    cases = {"few": few, "many": {"sampling": many}, "both": few | {"evaluation_sampling": many}}
    rows, updates, asked = {}, {}, {}
    for name, changes in cases.items():
        generator = Listening()
        align(align_config(tmp_path / name, **changes), generator, reward_of())
        rows[name] = rows_of(tmp_path / name / "run" / "evaluations.jsonl")
        updates[name] = rows_of(tmp_path / name / "run" / "metrics.jsonl")
        asked[name] = generator.asked
    assert rows["both"][0]["proxy"] == rows["many"][0]["proxy"] != rows["few"][0]["proxy"]
    assert [row["loss"] for row in updates["both"]] == [row["loss"] for row in updates["few"]]
    assert {guidance for has_gradient, guidance in asked["both"] if has_gradient} == {1.0}
    # Three evaluations of nine steps, the policy's and its reference's; training's own steps have guidance 1.
    assert sum(guidance == 4.0 for _, guidance in asked["both"]) == 3 * 9 * 2
    first, second = (
        next((tmp_path / name / "run" / "samples" / "step-00000000").glob("0-0.png")).read_bytes()
        for name in ("both", "many")
    )
    assert first == second


def test_a_stop_in_the_last_update_leaves_the_last_look_to_the_resumed_run(tmp_path, monkeypatch):
    original, calls = torch.optim.AdamW.step, []

    def step(optimizer, *arguments):
        calls.append(1)
        original(optimizer, *arguments)
        if len(calls) == 4:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        stopped = align(align_config(tmp_path), StandInGenerator(), reward_of(), judges=JUDGES)
    assert (stopped.ending, stopped.generator_folder, stopped.optimizer_steps) == ("interrupted", None, 4)
    assert [row["optimizer_step"] for row in rows_of(tmp_path / "run/evaluations.jsonl")] == [0, 2]
    resumed = align(align_config(tmp_path), StandInGenerator(), reward_of(), judges=JUDGES, resume=True)
    assert resumed.is_finished
    assert [row["optimizer_step"] for row in rows_of(tmp_path / "run/evaluations.jsonl")] == [0, 2, 4]


def test_scores_by_kind_of_prompt_are_those_of_the_proxy(tmp_path):
    prompts = tmp_path / "held_out.jsonl"
    kinds = {"a red thing": "colour", "a blue thing": "colour", "two things": "counting", "a thing": None}
    prompts.write_text("".join(json.dumps({"prompt": text, "kind": kind}) + "\n" for text, kind in kinds.items()))
    config = align_config(
        tmp_path, prompts={"train": str(prompts), "held_out": str(prompts)}, evaluation_prompts=4, evaluation_samples=2
    )
    result = align(config, StandInGenerator(), reward_of(), judges=JUDGES)
    row = rows_of(result.folder / "evaluations.jsonl")[-1]
    seen = Observation.from_json(rows_of(result.folder / "observations.jsonl")[-1])
    scores = dict(zip(seen.prompts, seen.scores.mean(axis=1), strict=True))
    colour = (scores["a red thing"] + scores["a blue thing"]) / 2
    assert row["extra"] == pytest.approx({"kind:colour": colour, "kind:counting": scores["two things"]})
    # Who measures kinds of its own knows better.
    own = align(
        config.model_copy(update={"out": tmp_path / "own"}),
        StandInGenerator(),
        reward_of(),
        lambda generator, step: {"kind:colour": 0.5},
    )
    assert rows_of(own.folder / "evaluations.jsonl")[0]["extra"] == {"kind:colour": 0.5}


def test_a_resumed_run_forgets_pictures_of_moments_that_come_again(tmp_path):
    align(align_config(tmp_path), StandInGenerator(), reward_of(), judges=JUDGES)
    shutil.rmtree(tmp_path / "run/checkpoints/step-00000004")
    later = tmp_path / "run/samples/step-00000099"
    later.mkdir()
    align(align_config(tmp_path), StandInGenerator(), reward_of(), judges=JUDGES, resume=True)
    assert not later.exists()
    assert sorted(path.name for path in (tmp_path / "run/samples").glob("step-*"))[-1] == "step-00000004"


def test_an_evaluation_is_judged_against_the_first_references_whatever_is_made_later(tmp_path):
    def refresh(generator, optimizer_step, prompts):
        return References(0.0)

    config = align_config(tmp_path, references={"refresh_every": 2})
    reward = RewardSignal([replace(pixel_reward("redness", redness), needs_references=True)])
    seen = []
    first = torch.ones(3, 8, 8)
    judge = reward.judge

    def watched(pixels, prompts, references, **options):
        seen.append([float(image.mean()) for images in references for image in images])
        return judge(pixels, prompts, references, **options)

    reward.judge = watched
    align(
        config,
        StandInGenerator(),
        reward,
        references=lambda prompts: [[first]] * len(prompts),
        refresh_references=refresh,
    )
    assert {value for values in seen for value in values} == {1.0}


def test_an_image_that_is_gone_is_named_before_the_run_begins(tmp_path):
    data = tmp_path / "pictures.jsonl"
    data.write_text(json.dumps({"prompt": "a", "image": "gone.png"}) + "\n", encoding="utf-8")
    regulariser = {"pretraining_weight": 1.0, "pretraining_data": str(data)}
    with pytest.raises(DataError, match=r"line 1 names .*gone\.png, and there is no such file"):
        align(align_config(tmp_path, regulariser=regulariser), StandInGenerator(), reward_of())


def test_updates_before_a_broken_image_are_not_lost(tmp_path):
    def lookup(prompts):
        if len(looked) > 4:
            raise MediaError("reference.png is damaged")
        looked.append(prompts)
        return [[torch.ones(3, 8, 8)]] * len(prompts)

    looked = []
    reward = RewardSignal([replace(pixel_reward("redness", redness), needs_references=True)])
    config = align_config(tmp_path, save_every=4)
    with pytest.raises(MediaError, match="damaged"):
        align(config, StandInGenerator(), reward, references=lookup)
    assert list((tmp_path / "run/checkpoints").glob("step-*"))


@pytest.mark.parametrize(("action_pull", "data"), [(3.0, None), (1.0, "references")])
def test_only_pictures_of_the_reference_policys_own_are_drawn_to_harder(tmp_path, action_pull, data):
    regulariser = {"pretraining_weight": 2.0, "pretraining_data": data}
    bench = bench_of(align_config(tmp_path, regulariser=regulariser))
    bench.references = lambda prompts: [[torch.ones(3, 8, 8)]] * len(prompts)
    pretraining = Pretraining(bench)
    (plain,) = pretraining.parts(0)
    bench.pull = 3.0
    (harder,) = pretraining.parts(0)
    assert harder.loss.item() == pytest.approx(action_pull * plain.loss.item(), rel=1e-5)


def test_a_judge_that_raises_loses_nothing_of_the_run(tmp_path):
    asked = []

    def flaky(pixels, prompts):
        asked.append(len(prompts))
        if len(asked) == 2:
            raise ConnectionError("the judge has gone")
        return darkness(pixels, prompts)

    config = align_config(tmp_path, save_every=4)
    with pytest.raises(RewardError, match="flaky: raised ConnectionError: the judge has gone"):
        align(config, StandInGenerator(), reward_of(), judges={"flaky": flaky})
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-00000002"]
    resumed = align(config, StandInGenerator(), reward_of(), judges={"flaky": flaky}, resume=True)
    assert (resumed.ending, resumed.optimizer_steps) == ("complete", 4)
