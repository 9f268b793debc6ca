import hashlib
from pathlib import Path

import pytest

from rewarddance.core.errors import UsageError
from rewarddance.rewards.instructions import (
    instruction_argument,
    instruction_names,
    load_instruction,
    stored_instruction,
)


def test_the_library_holds_the_task_and_its_dimensions():
    assert {"overall", "alignment", "structure", "aesthetics", "brief", "none"} <= set(instruction_names())


@pytest.mark.parametrize("name", instruction_names())
def test_a_stored_instruction_is_named_like_its_file(name: str):
    assert stored_instruction(name).name == name


def test_the_digest_is_that_of_the_text():
    instruction = load_instruction("brief")
    assert instruction.text == "Judge how well each image shows the prompt and how clean it is."
    assert instruction.sha256 == hashlib.sha256(instruction.text.encode()).hexdigest()


def test_no_criteria_are_an_empty_text():
    assert load_instruction("none").text == ""


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(UsageError, match=r"no instruction named 'beauty'; known: aesthetics, alignment, brief"):
        load_instruction("beauty")


def test_a_file_of_the_users_own_is_read(tmp_path: Path):
    path = tmp_path / "hands.yaml"
    path.write_text("{name: hands, task: text_to_image, dimension: hands, version: 2, text: Count the fingers.}")
    assert load_instruction(path).text == "Count the fingers."


def test_a_file_with_a_missing_field_is_named(tmp_path: Path):
    path = tmp_path / "hands.yaml"
    path.write_text("{name: hands, text: Count the fingers.}")
    with pytest.raises(UsageError, match=r"hands\.yaml needs the fields") as refusal:
        load_instruction(path)
    assert "\n" not in str(refusal.value)


def test_a_name_from_a_request_never_reads_a_file(tmp_path: Path):
    path = tmp_path / "hands.yaml"
    path.write_text("{name: hands, task: t, dimension: d, version: 1, text: x}")
    with pytest.raises(UsageError, match="no instruction named"):
        stored_instruction(str(path))


def test_text_that_ends_in_yaml_is_a_file_for_a_trusted_caller_only(tmp_path: Path):
    path = tmp_path / "hands.yaml"
    path.write_text("{name: hands, task: text_to_image, dimension: hands, version: 2, text: Count the fingers.}")
    assert load_instruction(str(path)).name == "hands"
    assert instruction_argument(str(path)) == path
    assert instruction_argument("overall") == "overall"
    with pytest.raises(UsageError, match="no instruction named"):
        stored_instruction(str(path))


def test_a_missing_file_is_answered_with_the_known_names(tmp_path: Path):
    with pytest.raises(UsageError, match=r"hands\.yaml: there is no such file; give a YAML file or one of: aesthetics"):
        load_instruction(tmp_path / "hands.yaml")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path):
    path = tmp_path / "hands.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not readable text"):
        load_instruction(path)


def test_a_task_that_does_not_exist_is_refused(tmp_path: Path):
    path = tmp_path / "hands.yaml"
    path.write_text("{name: hands, task: text2image, dimension: hands, version: 2, text: Count the fingers.}")
    with pytest.raises(UsageError, match="needs the fields"):
        load_instruction(path)
