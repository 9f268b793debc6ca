"""The service around a real, tiny vision-language model gives the scores that the model gives in this process."""

import math
from collections.abc import Iterator
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from rewarddance.core.types import JudgementRequest
from rewarddance.rewards.chat_endpoint import ChatEndpoint, EndpointSettings
from rewarddance.rewards.loading import load_reward_model
from rewarddance.rewards.protocol import RewardModel
from rewarddance.rewards.remote import RemoteRewardModel, record_of
from rewarddance.serving.client import ClientSettings, ScoringClient
from rewarddance.serving.limits import ServiceLimits
from rewarddance.serving.next_token import next_tokens
from rewarddance.serving.refusals import RefusedError
from rewarddance.serving.work import ChatWork, NextToken
from tests.serving.stand_in import Running, data_uri, running
from tests.tiny_models import save_tiny_model

LIMITS = ServiceLimits(drain_seconds=0.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> RewardModel:
    return load_reward_model(save_tiny_model("internvl", tmp_path_factory.mktemp("tiny") / "internvl"), device="cpu")


@pytest.fixture(scope="module")
def served(model: RewardModel) -> Iterator[Running]:
    with running(model, LIMITS) as here:
        yield here


@pytest.fixture
def client(served: Running) -> Iterator[ScoringClient]:
    with ScoringClient(served.url, settings=ClientSettings(concurrency=6)) as here:
        yield here


@pytest.fixture(scope="module")
def files() -> list[bytes]:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(4):
        file = BytesIO()
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(file, "PNG")
        found.append(file.getvalue())
    return found


def test_served_judgements_equal_those_of_the_model(model: RewardModel, client: ScoringClient, files: list[bytes]):
    requests = [
        JudgementRequest(prompt, files[one], files[other], id=f"{prompt} {one} {other}")
        for prompt in ("a red square", "a photo of a dog")
        for one in range(4)
        for other in range(4)
        if one != other
    ]
    local, remote = model.judge(requests), client.judge(requests)

    assert [judgement.id for judgement in remote] == [request.id for request in requests]
    for here, there in zip(local, remote, strict=True):
        assert there.reward == pytest.approx(here.reward, abs=1e-4)
        assert there.order_gap == pytest.approx(here.order_gap, abs=1e-4)
        assert there.leaked_mass == pytest.approx(here.leaked_mass, abs=1e-4)


def test_one_order_is_asked_on_request(model: RewardModel, client: ScoringClient, files: list[bytes]):
    request = JudgementRequest("a red square", files[0], files[1])

    there, here = client.judge([request], "one")[0], model.judge([request], "one")[0]
    assert there.reward == pytest.approx(here.reward, abs=1e-4)
    assert there.order_gap is None


def test_a_served_ranking_equals_that_of_the_model(model: RewardModel, client: ScoringClient, files: list[bytes]):
    there, here = client.rank("a red square", files), model.rank("a red square", files)

    assert (there.order, there.wins) == (here.order, here.wins)
    assert there.rewards == pytest.approx(here.rewards, abs=1e-4)


def test_a_truncated_picture_is_refused_by_the_decoder(served: Running, files: list[bytes]):
    body = {"prompt": "a", "candidate": data_uri(files[0][:-400]), "reference_images": [data_uri(files[1])]}
    reply = served.post("/v1/judge", body)

    assert (reply.status, reply.code) == (422, "unreadable_media")


def test_the_probabilities_of_a_chat_give_the_reward_of_the_same_question(model: RewardModel, files: list[bytes]):
    # "yes" against "no" over the whole vocabulary, from the question in the model's own words.
    request = JudgementRequest("a red square", files[1], files[0])
    criteria = model.record.instruction.text
    opening = f"{criteria}\n" if criteria else ""
    pieces = (
        f"{opening}Prompt: a red square\nImage 1: ",
        files[0],
        "\nImage 2: ",
        files[1],
        "\nIs image 2 better than image 1? Answer yes or no.",
    )
    answer = next_tokens(model.backbone, [ChatWork(pieces, 100_000)], LIMITS.media)[0]
    assert isinstance(answer, NextToken)
    mass = {"yes": 0.0, "no": 0.0}
    for chance in answer.alternatives:
        word = chance.token.strip().lower()
        if word in mass:
            mass[word] += math.exp(chance.log_probability)

    expected = model.judge([request], "one")[0].reward
    assert math.log(mass["yes"] / mass["no"]) == pytest.approx(expected, abs=1e-3)


def test_a_chat_completion_has_the_shape_that_clients_read(served: Running, files: list[bytes]):
    image = {"type": "image_url", "image_url": {"url": data_uri(files[0]), "detail": "auto"}}
    content = [{"type": "text", "text": "Is this a red square? Answer yes or no."}, image]
    body = {"model": "any", "messages": [{"role": "user", "content": content}], "max_tokens": 1, "temperature": 0.0}
    reply = served.post("/v1/chat/completions", {**body, "logprobs": True, "top_logprobs": 5, "seed": 1})

    choice = reply.body["choices"][0]
    first = choice["logprobs"]["content"][0]
    assert reply.status == 200
    assert len(first["top_logprobs"]) == 5
    assert first["token"] == first["top_logprobs"][0]["token"] == choice["message"]["content"]
    assert first["logprob"] < 0
    assert served.post("/v1/chat/completions", body).body["choices"][0]["logprobs"] is None


def test_our_own_client_of_chat_services_gets_the_scores_of_this_process(
    model: RewardModel, served: Running, files: list[bytes]
):
    requests = [JudgementRequest("a red square", files[first], files[second]) for first, second in ((0, 1), (2, 3))]
    remote = RemoteRewardModel(ChatEndpoint(EndpointSettings(f"{served.url}/v1", "any")), record_of(model))
    here, there = model.judge(requests), remote.judge(requests)
    remote.close()

    assert [judgement.reward for judgement in there] == pytest.approx([one.reward for one in here], abs=1e-4)


def test_named_tokens_are_the_alternatives_and_those_that_do_not_exist_are_refused(served: Running):
    body = {"messages": [{"role": "user", "content": "good?"}], "logprobs": True, "return_tokens_as_token_ids": True}
    reply = served.post("/v1/chat/completions", {**body, "logprob_token_ids": [7, 5]})
    listed = reply.body["choices"][0]["logprobs"]["content"][0]["top_logprobs"]

    assert [chance["token"] for chance in listed] == ["token_id:7", "token_id:5"]
    for unknown in (-1, 10**9):
        assert served.post("/v1/chat/completions", {**body, "logprob_token_ids": [unknown]}).status == 400


def test_a_token_is_drawn_by_its_seed_and_log_probabilities_stay_those_of_the_model(model: RewardModel):
    works = [ChatWork(("good?",), 5, temperature=2.0, seed=seed) for seed in (*range(20), 0)]
    greedy = next_tokens(model.backbone, [ChatWork(("good?",), 5)], LIMITS.media)[0]
    drawn = next_tokens(model.backbone, works, LIMITS.media)

    assert isinstance(greedy, NextToken)
    assert len({one.chosen.token for one in drawn}) > 1
    assert drawn[0].chosen == drawn[-1].chosen
    expected = [chance.log_probability for chance in greedy.alternatives]
    assert [chance.log_probability for chance in drawn[0].alternatives] == pytest.approx(expected, abs=1e-5)


def test_a_chat_that_cannot_be_asked_fails_alone(model: RewardModel, files: list[bytes]):
    works = [
        ChatWork(("is this good? " * 100_000,), 1),
        ChatWork(("is this good? ", files[0]), 1),
        ChatWork((files[0][:-300],), 1),
    ]
    answers = next_tokens(model.backbone, works, LIMITS.media)

    assert isinstance(answers[1], NextToken)
    codes = [answer.code.value for answer in answers if isinstance(answer, RefusedError)]
    assert codes == ["too_long", "unreadable_media"]
