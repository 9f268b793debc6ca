from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from rewarddance.config.alignment import AlignConfig
from rewarddance.core.errors import ModelError, RewardError, UsageError
from rewarddance.core.types import Comparison, Media
from rewarddance.rewards.loading import load_reward_model, new_reward_model
from rewarddance.rewards.parity import known_answers, write_parity
from rewarddance.rewards.protocol import RewardModel
from rewarddance.rewards.remote import RemoteRewardModel
from rewarddance.training.alignment_inputs import (
    configured_judges,
    configured_reward,
    diversity_features,
    run_models,
)
from rewarddance.training.judging_models import stored_kind
from rewarddance.training.reward_signal import Patience, RewardSignal, image_from_pixels
from rewarddance.training.served_reward import served_reward
from tests.chat_server import ChatServer, chat_server, model_answers
from tests.tiny_models import save_tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    new_reward_model(save_tiny_model("internvl", folder / "base"), "pairwise", device="cpu").save(folder / "model")
    return folder / "model"


@pytest.fixture(scope="module")
def model(folder: Path) -> RewardModel:
    return load_reward_model(folder, device="cpu")


@pytest.fixture(scope="module")
def service(model: RewardModel):
    with chat_server(model_answers(model)) as server:
        yield server


@pytest.fixture
def server(service: ChatServer) -> ChatServer:
    service.calm_down()
    return service


def config(folder: Path, server: ChatServer, method: str = "flow_grpo", **service: object) -> AlignConfig:
    return AlignConfig.model_validate(
        {
            "generator": {"path": "lab:drawn"},
            "rewards": [
                {"model": str(folder), "service": {"url": server.url, "served_model": "tiny"} | service, "weight": 1.0}
            ],
            "prompts": {"train": "prompts.txt"},
            "method": {"name": method, "group_size": 8} if method != "refl" else {"name": "refl"},
        }
    )


def samples() -> torch.Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_a_served_reward_gives_a_policy_the_model_s_own_log_odds(folder, model, server):
    references = [[torch.zeros(3, 32, 32)], [torch.ones(3, 32, 32)]]

    signal = configured_reward(config(folder, server))
    values = signal.judge(samples(), ["a cat", "a dog"], references)

    own = [
        model.compare(prompt, image_from_pixels(sample), image_from_pixels(reference[0])).reward
        for prompt, sample, reference in zip(["a cat", "a dog"], samples(), references, strict=True)
    ]
    assert values.combined.tolist() == pytest.approx(own, abs=1e-4)
    assert signal.needs_references
    assert not signal.is_differentiable


def test_a_service_is_told_the_request_fields_of_its_config(folder, server):
    fields = {"max_tokens": None, "max_completion_tokens": 1, "chat_template_kwargs": {"enable_thinking": False}}
    (model,) = run_models(config(folder, server, request_fields=fields)).rewards
    model.compare("a cat", image_from_pixels(samples()[0]), image_from_pixels(samples()[1]))

    assert {body["max_completion_tokens"] for body in server.bodies} == {1}
    assert all(body["chat_template_kwargs"] == {"enable_thinking": False} for body in server.bodies)
    assert not any("max_tokens" in body for body in server.bodies)


def test_a_served_model_that_never_saw_sets_is_said_not_to_know_them(folder, server, caplog):
    asked = config(folder, server)
    configured_reward(asked)
    assert "data.reference_sets" not in caplog.text
    together = asked.references.model_copy(update={"combine": "together"})
    configured_reward(asked.model_copy(update={"references": together}))
    assert "has not learned several reference images in one question (data.reference_sets)" in caplog.text


def test_a_served_reward_that_fails_stops_the_step_without_a_number(folder, server):
    server.lasting_mood = "no_log_probabilities"
    model = run_models(config(folder, server)).rewards[0]
    signal = RewardSignal([served_reward(model, "served")], patience=Patience(tries=1))

    with pytest.raises(RewardError, match="no_log_probabilities"):
        signal.judge(samples(), ["a cat", "a dog"], [[torch.zeros(3, 32, 32)]] * 2)


def test_a_question_that_fails_for_good_is_asked_once(folder, server):
    server.lasting_mood = "no_log_probabilities"
    signal = configured_reward(config(folder, server))
    server.bodies.clear()

    with pytest.raises(RewardError, match=r"asked once .* no_log_probabilities"):
        signal.judge(samples(), ["a cat", "a dog"], [[torch.zeros(3, 32, 32)]] * 2)

    assert len(server.bodies) <= 4  # two samples in both orders


def test_an_answer_that_a_service_does_not_list_stops_the_run_with_its_cause_and_the_remedy(folder, model):
    with chat_server(model_answers(model, knows_token_ids=False)) as plain:
        signal = configured_reward(config(folder, plain, top_log_probabilities=2))

        with pytest.raises(RewardError) as caught:
            signal.judge(samples(), ["a cat", "a dog"], [[torch.zeros(3, 32, 32)]] * 2)

    message = str(caught.value)
    assert "no_answer: yes and no is not among the 2 tokens that the service lists" in message
    assert "raise service.top_log_probabilities where it allows that" in message
    assert "lists the tokens that are named to it (vLLM, `rewarddance serve`; service.names_tokens)" in message
    assert message.endswith("mend the reward, then resume")


def test_other_failures_of_a_service_are_told_without_that_remedy(folder, server):
    server.lasting_mood = "no_log_probabilities"
    signal = configured_reward(config(folder, server))

    with pytest.raises(RewardError) as caught:
        signal.judge(samples(), ["a cat", "a dog"], [[torch.zeros(3, 32, 32)]] * 2)

    assert "top_log_probabilities" not in str(caught.value)


def test_a_service_keeps_the_deadline_and_the_tries_of_its_config(folder, server):
    signal = configured_reward(config(folder, server, deadline_seconds=0.2, tries=2))
    server.lasting_mood = "hang"
    server.bodies.clear()

    with pytest.raises(RewardError, match=r"no reply within 0\.2 seconds"):
        signal.judge(samples()[:1], ["a cat"], [[torch.zeros(3, 32, 32)]])

    assert len(server.bodies) <= 4  # both orders, twice each


def test_a_method_that_climbs_the_gradient_refuses_a_service(folder, server):
    with pytest.raises(ValidationError, match="none comes back from a service"):
        config(folder, server, method="refl")


def test_a_run_does_not_start_with_a_service_that_scores_otherwise(
    folder, model, server, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    Image.new("RGB", (32, 32), "red").save(tmp_path / "red.png")
    Image.new("RGB", (32, 32), "blue").save(tmp_path / "blue.png")
    comparison = Comparison("a", "a red square", Media(tmp_path / "red.png"), Media(tmp_path / "blue.png"), "first")
    questions = known_answers(model, [comparison], is_pairwise=True)
    write_parity(tmp_path / "right.json", questions)
    write_parity(tmp_path / "wrong.json", [replace(one, log_odds=2.0) for one in questions])

    connected = run_models(config(folder, server, parity=str(tmp_path / "right.json"))).rewards

    assert isinstance(connected[0], RemoteRewardModel)
    assert caplog.text == ""
    with pytest.raises(ModelError, match="other weights"):
        run_models(config(folder, server, parity=str(tmp_path / "wrong.json")))


def judged_by(*judges: dict[str, object], **changes: object) -> AlignConfig:
    tree = {"generator": {"path": "g"}, "rewards": [{"model": "other"}], "prompts": {"train": "prompts.txt"}}
    return AlignConfig.model_validate(tree | {"judges": list(judges)} | changes)


def test_a_served_judge_watches_a_method_that_climbs_the_gradient_with_the_model_s_own_log_odds(folder, model, server):
    references = [[torch.zeros(3, 32, 32)], [torch.ones(3, 32, 32)]]
    service = {"url": server.url, "served_model": "tiny"}
    own = {"model": str(folder), "shift": 2}

    def opinions(judge: dict[str, object]) -> list[float]:
        (asked,) = configured_judges(judged_by(judge, evaluation_batch_size=1), lambda asked: references[:1]).values()
        return list(asked(samples(), ["a cat", "a dog"]))

    assert opinions(own | {"service": service}) == pytest.approx(opinions(own), abs=1e-4)
    assert len(server.bodies) == 4  # two pictures in both orders


def test_diversity_is_seen_by_the_first_judge_that_runs_here(folder, server):
    served = {"model": str(folder), "service": {"url": server.url, "served_model": "tiny"}}
    config = judged_by(served, {"model": str(folder), "shift": 1})
    judges = configured_judges(config, lambda prompts: None)

    features = diversity_features(config, judges)
    assert features is not None
    assert len(features(samples())) == 2
    assert diversity_features(config, dict(list(judges.items())[:1])) is None


def test_an_untrained_served_judge_is_asked_as_its_kind_says(server):
    service = {"url": server.url, "served_model": "tiny", "zero_shot": True, "request_fields": {"top_logprobs": 1000}}
    config = judged_by({"model": "somebody/large", "kind": "pointwise", "service": service})
    assert stored_kind(config.judges[0]) == "pointwise"
    (judge,) = configured_judges(config, lambda prompts: None).values()

    assert len(judge(samples(), ["a cat", "a dog"])) == 2
    shown = [[part["type"] for part in body["messages"][0]["content"]].count("image_url") for body in server.bodies]
    assert shown == [1, 1]
    assert not any("logprob_token_ids" in body for body in server.bodies)


def test_a_trained_model_is_not_asked_zero_shot(folder, server):
    with pytest.raises(UsageError, match=r"says how it is asked; leave service\.zero_shot out"):
        run_models(config(folder, server, zero_shot=True))


@pytest.mark.parametrize("given", [{"adapter": "a"}, {"revision": "v1"}, {"dtype": "bfloat16"}])
def test_what_a_service_decides_is_not_said_of_a_served_model(given: dict[str, object]):
    served = {"model": "m", "service": {"url": "http://one/v1", "served_model": "m"}}
    with pytest.raises(ValidationError, match=f"{next(iter(given))} is for a model that is loaded here"):
        judged_by(served | given)


def test_a_service_that_nobody_has_checked_is_trusted_with_a_line_that_says_how_to_check_it(
    folder, server, caplog: pytest.LogCaptureFixture
):
    run_models(config(folder, server))

    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"{server.url} is trusted to score as the model itself does")
    assert line.endswith("`rewarddance parity --out FILE` compares them, and service.parity names that file")
