from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rewarddance.core.errors import DataError, ModelError
from rewarddance.rewards.chat_endpoint import ChatEndpoint, EndpointSettings
from rewarddance.rewards.parity import (
    DEFAULT_LIMIT,
    ParityAnswer,
    ParityQuestion,
    ParityReport,
    known_answers,
    read_parity,
    require_parity,
    served_parity,
    write_parity,
)
from rewarddance.rewards.protocol import RewardModel
from rewarddance.rewards.remote import RemoteRewardModel, record_of
from tests.chat_server import ChatServer, chat_server, model_answers
from tests.rewards.conftest import NewModel


@pytest.fixture
def model(new_model: NewModel) -> RewardModel:
    return new_model("pairwise")


@pytest.fixture
def server(model: RewardModel) -> Iterator[ChatServer]:
    with chat_server(model_answers(model)) as server:
        yield server


def served(server: ChatServer, model: RewardModel) -> RemoteRewardModel:
    return RemoteRewardModel(ChatEndpoint(EndpointSettings(server.url, "tiny", tries=1)), record_of(model))


def test_the_same_model_behind_a_service_passes(model, server, comparisons):
    questions = known_answers(model, comparisons, is_pairwise=True)

    report = served_parity(served(server, model), questions, limit=1e-3)

    # Both orders of four comparisons.
    assert len(report.questions) == 8
    assert report.largest_score_difference <= 1e-4
    assert report.largest_log_odds_difference <= 1e-4
    assert report.is_passed


def test_a_pointwise_model_is_asked_about_each_medium_alone(new_model: NewModel, comparisons):
    model = new_model("pointwise")
    with chat_server(model_answers(model)) as server:
        report = served_parity(served(server, model), known_answers(model, comparisons, is_pairwise=False), limit=1e-3)

    assert {question.reference_image for question in report.questions} == {None}
    assert report.is_passed


def test_a_difference_over_the_limit_does_not_pass(model, server, comparisons):
    questions = known_answers(model, comparisons, is_pairwise=True)
    questions[3] = replace(questions[3], log_odds=questions[3].log_odds + 0.1)

    report = served_parity(served(server, model), questions, limit=1e-3)

    assert not report.is_passed
    assert report.largest_log_odds_difference == pytest.approx(0.1, abs=1e-3)
    # The sigmoid's slope at 0 is a quarter.
    assert report.largest_score_difference == pytest.approx(0.025, abs=1e-3)


@pytest.mark.parametrize(("known", "answered", "passes"), [(8.0, 15.0, False), (8.0, 8.2, True), (0.0, 0.1, False)])
def test_sure_answers_are_compared_by_their_log_odds(known: float, answered: float, passes: bool):
    question = ParityQuestion("a cat", "one.png", "two.png", None, known)

    report = ParityReport((question,), (ParityAnswer(answered),), limit=DEFAULT_LIMIT)

    assert report.is_passed == passes


def test_a_single_question_without_an_answer_does_not_pass(model, server, comparisons):
    questions = known_answers(model, comparisons, is_pairwise=True)
    server.misbehave("500")

    report = served_parity(served(server, model), questions, limit=1.0)

    assert len(report.failures) == 1
    assert not report.is_passed


def test_known_answers_are_kept_in_a_file_and_required_of_a_service(model, server, comparisons, tmp_path: Path):
    questions = known_answers(model, comparisons, is_pairwise=True)
    write_parity(tmp_path / "runs" / "parity.json", questions)

    assert read_parity(tmp_path / "runs" / "parity.json") == questions
    require_parity("the service", served(server, model), tmp_path / "runs" / "parity.json", limit=1e-3)


def test_a_service_that_scores_otherwise_is_refused(model, server, comparisons, tmp_path: Path):
    questions = known_answers(model, comparisons, is_pairwise=True)
    write_parity(tmp_path / "parity.json", [replace(one, log_odds=one.log_odds + 1.0) for one in questions])

    with pytest.raises(ModelError, match=r"the service scores differ by 0\.2"):
        require_parity("the service", served(server, model), tmp_path / "parity.json", limit=1e-3)


def test_a_service_that_gives_no_answer_is_refused(model, server, comparisons, tmp_path: Path):
    write_parity(tmp_path / "parity.json", known_answers(model, comparisons, is_pairwise=True))
    server.lasting_mood = "no_log_probabilities"

    with pytest.raises(ModelError, match="no_log_probabilities"):
        require_parity("the service", served(server, model), tmp_path / "parity.json", limit=1.0)


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '[{"prompt": "a"}]', "not json"])
def test_a_file_without_known_answers_is_an_error(content: str | None, tmp_path: Path):
    if content is not None:
        (tmp_path / "parity.json").write_text(content)

    with pytest.raises(DataError):
        read_parity(tmp_path / "parity.json")


def test_no_comparisons_are_an_error(model):
    with pytest.raises(DataError, match="no comparisons"):
        known_answers(model, [], is_pairwise=True)
