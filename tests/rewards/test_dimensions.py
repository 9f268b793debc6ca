from pathlib import Path

import pytest
from PIL import Image

from rewarddance.core.errors import UsageError
from rewarddance.core.types import JudgementRequest, Status
from rewarddance.rewards.dimensions import judge_dimensions
from rewarddance.rewards.instructions import stored_instruction
from tests.rewards.conftest import NewModel

PROMPT = "a red square"
BOTH = ["alignment", "structure"]


def test_every_request_is_judged_in_every_dimension(new_model: NewModel, images: list[Image.Image]):
    model = new_model("pointwise")
    requests = [JudgementRequest(PROMPT, image, id=str(place)) for place, image in enumerate(images[:2])]
    found = judge_dimensions(model, requests, BOTH)
    for place, judged in enumerate(found):
        for name in BOTH:
            alone = model.judge([JudgementRequest(PROMPT, images[place], instruction=name)])[0]
            assert judged[name].reward == pytest.approx(alone.reward, abs=1e-5)
            assert (judged[name].id, judged[name].instruction) == (str(place), name)


def test_a_judgement_carries_the_digest_of_its_criteria(new_model: NewModel, images: list[Image.Image]):
    found = judge_dimensions(new_model("pointwise"), [JudgementRequest(PROMPT, images[0])], BOTH)[0]
    assert {name: one.instruction_sha256 for name, one in found.items()} == {
        name: stored_instruction(name).sha256 for name in BOTH
    }


def test_a_broken_medium_fails_in_every_dimension_and_alone(new_model: NewModel, images: list[Image.Image]):
    model = new_model("pointwise")
    broken, good = judge_dimensions(
        model, [JudgementRequest(PROMPT, b"broken"), JudgementRequest(PROMPT, images[0])], BOTH
    )
    assert {one.status for one in broken.values()} == {Status.UNREADABLE_MEDIA}
    assert {one.instruction_sha256 for one in broken.values()} == {stored_instruction(name).sha256 for name in BOTH}
    assert all(one.is_ok for one in good.values())


def test_a_file_of_the_users_own_is_a_dimension_too(new_model: NewModel, images: list[Image.Image], tmp_path: Path):
    path = tmp_path / "own.yaml"
    path.write_text("{name: hands, task: text_to_image, dimension: hands, version: 1, text: Count the fingers.}")
    found = judge_dimensions(new_model("pointwise"), [JudgementRequest(PROMPT, images[0])], ["alignment", path])[0]
    assert list(found) == ["alignment", "hands"]
    assert found["hands"].reward != found["alignment"].reward


@pytest.mark.parametrize("names", [[], ["alignment", "alignment"]])
def test_each_of_the_criteria_is_named_once(new_model: NewModel, images: list[Image.Image], names: list[str]):
    with pytest.raises(UsageError, match="by once"):
        judge_dimensions(new_model("pointwise"), [JudgementRequest(PROMPT, images[0])], names)


def test_a_request_with_criteria_of_its_own_is_refused(new_model: NewModel, images: list[Image.Image]):
    request = JudgementRequest(PROMPT, images[0], instruction="brief")
    with pytest.raises(UsageError, match="criteria of its own"):
        judge_dimensions(new_model("pointwise"), [request], BOTH)


def test_a_name_that_looks_like_a_path_is_not_read(new_model: NewModel, images: list[Image.Image], tmp_path: Path):
    path = tmp_path / "own.yaml"
    path.write_text("{name: hands, task: text_to_image, dimension: hands, version: 1, text: Count the fingers.}")
    model = new_model("pointwise")
    request = JudgementRequest(PROMPT, images[0], instruction=str(path))
    with pytest.raises(UsageError, match="no instruction named"):
        model.judge([request])
    with pytest.raises(UsageError, match="no instruction named"):
        judge_dimensions(model, [JudgementRequest(PROMPT, images[0])], [str(path)])
