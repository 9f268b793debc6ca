import time
from collections.abc import Iterator, Sequence
from itertools import count

import pytest
import torch
from PIL import Image

from rewarddance.core.errors import ModelError, UsageError
from rewarddance.core.types import Judgement, JudgementRequest, Status
from rewarddance.rewards.chat_endpoint import ChatEndpoint, EndpointSettings
from rewarddance.rewards.loading import load_reward_model
from rewarddance.rewards.protocol import RewardModel
from rewarddance.rewards.reasoning_settings import ReasoningSettings
from rewarddance.rewards.remote import RemoteRewardModel, connect_reward_model
from rewarddance.rewards.served_backbone import DEFAULT_SERVED, ServedSettings
from tests.chat_server import ChatServer, chat_server, model_answers
from tests.rewards.conftest import NewModel
from tests.tiny_models import FAMILIES, save_tiny_model

ALL_TOKENS = ServedSettings(top_log_probabilities=1000, names_tokens=False)


def settings(server: ChatServer, **changes: object) -> EndpointSettings:
    quick = {"deadline_seconds": 20.0, "backoff_seconds": 0.01, "tries": 3}
    return EndpointSettings(url=server.url, model="tiny", **(quick | changes))


def opinionated(model: RewardModel) -> RewardModel:
    """The same model with log-odds far apart: those of random weights are all nearly 0."""
    with torch.no_grad():
        for parameter in model.module.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3.0)
    return model


def remote_of(server: ChatServer, model: RewardModel, served: ServedSettings = DEFAULT_SERVED, **changes: object):
    return RemoteRewardModel(ChatEndpoint(settings(server, **changes)), model.record, served)


def rewards_of(judgements: Sequence[Judgement]) -> list[float | None]:
    return [judgement.reward for judgement in judgements]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> RewardModel:
    folder = tmp_path_factory.mktemp("local")
    base = opinionated(load_reward_model(save_tiny_model("internvl", folder / "base"), device="cpu"))
    base.save(folder / "model")
    return load_reward_model(folder / "model", device="cpu")


@pytest.fixture(scope="module")
def service(local: RewardModel) -> Iterator[ChatServer]:
    with chat_server(model_answers(local)) as server:
        yield server


@pytest.fixture
def server(service: ChatServer) -> ChatServer:
    """The service in a good mood, without memories."""
    service.calm_down()
    return service


@pytest.fixture
def remote(server: ChatServer, local: RewardModel) -> RemoteRewardModel:
    return remote_of(server, local)


def requests_of(images: list[Image.Image]) -> list[JudgementRequest]:
    return [JudgementRequest("a red square", images[k + 1], images[k], id=str(k)) for k in range(3)]


@pytest.mark.parametrize("family", FAMILIES)
def test_served_judgements_are_those_of_the_same_model_in_process(family, tmp_path, images):
    model = opinionated(load_reward_model(save_tiny_model(family, tmp_path), device="cpu"))
    with chat_server(model_answers(model)) as server:
        served, own = remote_of(server, model).judge(requests_of(images)), model.judge(requests_of(images))

    # Otherwise equal numbers would say little.
    assert max(rewards_of(own)) - min(rewards_of(own)) > 0.01
    for there, here in zip(served, own, strict=True):
        assert there.status is Status.OK
        assert there.score == pytest.approx(here.score, abs=1e-4)
        assert there.reward == pytest.approx(here.reward, abs=1e-4)
        assert there.order_gap == pytest.approx(here.order_gap, abs=1e-4)
        assert there.leaked_mass == pytest.approx(here.leaked_mass, abs=1e-4)
        assert (there.id, there.instruction_sha256) == (here.id, here.instruction_sha256)


def test_a_pointwise_model_can_be_served(new_model: NewModel, images):
    model = opinionated(new_model("pointwise"))
    with chat_server(model_answers(model)) as server:
        served = remote_of(server, model).judge(requests_of(images))

    assert rewards_of(served) == pytest.approx(rewards_of(model.judge(requests_of(images))), abs=1e-4)


def test_a_scalar_model_cannot_be_served(new_model: NewModel, server):
    with pytest.raises(UsageError, match="scalar"):
        remote_of(server, new_model("scalar"))


def test_the_ranking_over_http_is_that_of_the_model(remote, local, images):
    served, own = remote.rank("a red square", images[:3]), local.rank("a red square", images[:3])

    assert served.order == own.order
    assert served.rewards == pytest.approx(own.rewards, abs=1e-4)


def test_a_served_model_asked_for_reasons_says_that_it_writes_none(server, remote, images):
    with pytest.raises(UsageError, match="one token"):
        remote.judge([JudgementRequest("a red square", images[0], images[1])], reasoning=ReasoningSettings())
    assert not server.bodies


def test_comparing_over_http_is_judging_one_request(remote, local, images):
    there = remote.compare("a red square", images[0], images[1])

    assert there.reward == pytest.approx(local.compare("a red square", images[0], images[1]).reward, abs=1e-4)


def test_a_service_that_knows_no_token_ids_gives_the_same_scores_from_the_tokens_texts(local, images):
    with chat_server(model_answers(local, knows_token_ids=False)) as server:
        served = remote_of(server, local, ALL_TOKENS).judge(requests_of(images))

    assert rewards_of(served) == pytest.approx(rewards_of(local.judge(requests_of(images))), abs=1e-4)


def test_a_list_too_short_for_the_answers_is_a_failure_and_no_score(local, images):
    with chat_server(model_answers(local, knows_token_ids=False)) as server:
        judged = remote_of(server, local, ServedSettings(top_log_probabilities=1)).judge(requests_of(images))

    assert {(one.status, one.score, one.reward) for one in judged} == {(Status.FAILED, None, None)}
    assert all(one.message.startswith("no_answer: ") for one in judged)


def test_tokens_in_another_order_change_nothing(server, remote, local, images):
    server.lasting_mood = "shuffled_tokens"

    served = remote.judge(requests_of(images))

    assert rewards_of(served) == pytest.approx(rewards_of(local.judge(requests_of(images))), abs=1e-4)


def test_replies_that_overtake_each_other_reach_their_own_requests(local, images):
    respond, turns = model_answers(local), count()

    def later_is_faster(body):
        place = next(turns)
        reply = respond(body)
        time.sleep(0.05 * (6 - place))
        return reply

    with chat_server(later_is_faster) as server:
        served = remote_of(server, local, concurrency=6).judge(requests_of(images))

    assert rewards_of(served) == pytest.approx(rewards_of(local.judge(requests_of(images))), abs=1e-4)


def test_the_question_is_asked_with_the_words_and_images_in_the_model_s_order(server, remote, images):
    remote.judge(requests_of(images)[:1], order_mode="one")

    content = server.bodies[0]["messages"][0]["content"]
    assert [part["type"] for part in content] == ["text", "image_url", "text", "image_url", "text"]
    assert content[-1]["text"].strip() == "Is image 2 better than image 1? Answer yes or no."
    assert "a red square" in content[0]["text"]
    # At any other temperature some services return other log-probabilities.
    assert (server.bodies[0]["temperature"], server.bodies[0]["max_tokens"]) == (1.0, 1)


@pytest.mark.parametrize(("mood", "status"), [("no_log_probabilities", Status.UNANSWERED), ("refusal", Status.FAILED)])
def test_what_another_try_cannot_mend_is_asked_once_and_has_no_score(mood, status, server, remote, images):
    server.lasting_mood = mood

    judged = remote.judge(requests_of(images)[:1], order_mode="one")[0]

    assert (judged.status, judged.score, judged.reward) == (status, None, None)
    assert judged.message.startswith(mood.replace("refusal", "refused"))
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    ("mood", "status"),
    [("503", Status.UNANSWERED), ("401", Status.UNANSWERED), ("hang_up", Status.UNANSWERED), ("400", Status.FAILED)],
)
def test_no_answer_is_told_from_an_answer_that_would_come_again(mood, status, server, remote, images):
    server.lasting_mood = mood

    assert remote.judge(requests_of(images)[:1], order_mode="one")[0].status is status


def test_a_chance_that_is_no_number_is_asked_for_again(server, remote, local, images):
    server.misbehave("nan", "nan")

    judged = remote.judge(requests_of(images)[:1], order_mode="one")

    assert rewards_of(judged) == pytest.approx(rewards_of(local.judge(requests_of(images)[:1], "one")), abs=1e-4)
    assert len(server.bodies) == 3


def test_scores_need_no_text_beside_the_chances(server, remote, local, images):
    server.lasting_mood = "no_text"

    assert rewards_of(remote.judge(requests_of(images))) == pytest.approx(
        rewards_of(local.judge(requests_of(images))), abs=1e-4
    )


def test_a_lasting_failure_costs_no_more_than_the_allowed_tries(server, remote, images):
    server.lasting_mood = "500"

    judged = remote.judge(requests_of(images)[:1], order_mode="one")[0]

    assert len(server.bodies) == 3
    assert judged.score is None
    assert judged.message == "server_error: the service answered with HTTP 500: 'not now' (3 tries)"


def test_a_failed_question_leaves_the_others_judgements_alone(server, local, images):
    server.misbehave("refusal")

    judged = remote_of(server, local, concurrency=1).judge(requests_of(images))

    assert [one.is_ok for one in judged] == [False, True, True]


def test_an_unreadable_image_is_not_sent(server, remote, images, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")

    judged = remote.judge([JudgementRequest("a cat", broken, images[0])])[0]

    assert judged.status is Status.UNREADABLE_MEDIA
    assert server.bodies == []


def test_the_record_alone_says_how_the_served_model_is_asked(server, local, images, tmp_path):
    local.save(tmp_path / "model")
    alone = tmp_path / "rewarddance.json"
    (tmp_path / "model" / "rewarddance.json").rename(alone)

    judged = connect_reward_model(settings(server), alone).judge(requests_of(images)[:1])

    assert rewards_of(judged) == pytest.approx(rewards_of(local.judge(requests_of(images)[:1])), abs=1e-4)


def test_a_record_that_is_not_there_is_a_model_error(server, tmp_path):
    with pytest.raises(ModelError, match="does not exist"):
        connect_reward_model(settings(server), tmp_path)


def test_a_clip_s_frames_are_sent_one_by_one(server, remote, tmp_path, images):
    frames = [image.resize((32, 32)) for image in images[:3]]
    clip = tmp_path / "clip.gif"
    frames[0].save(clip, save_all=True, append_images=frames[1:])

    judged = remote.judge([JudgementRequest("a red square", clip, clip)], order_mode="one")[0]

    kinds = [part["type"] for part in server.bodies[0]["messages"][0]["content"]]
    assert judged.is_ok
    assert kinds.count("image_url") == 6
