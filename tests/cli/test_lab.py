import pytest

from tests.cli.command_line import error_of


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("alignment", "--part", "ppo"), "has no part ppo; give guarded, references, refl, refl_augmented, flow_grpo"),
        (("context", "--part", "refl"), "has no part refl; give instructions, references"),
        (("context", "--size", "huge"), "has no size huge; give nano, micro, small"),
        (("alignment", "--size", "nano"), "has no size nano; leave --size out"),
        (("search", "--part", "paths"), "has no part paths; leave --part out"),
    ],
)
def test_a_part_that_a_study_does_not_have_is_refused_before_anything_is_made(
    words: tuple[str, ...], message: str, tmp_path, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "study"
    error = error_of(capsys, "lab", "study", *words, "--out", folder, "--results", tmp_path / "results", code=2)
    assert message in error
    assert not folder.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("drawn", "--describing"), "the generator describes nothing"),
        (("drawn", "--describing-alone"), "the generator describes nothing"),
        (("nano", "--describing", "--describing-alone"), "make different bases; choose one"),
    ],
)
def test_lessons_in_describing_that_cannot_be_given_are_refused_before_anything_is_made(
    words: tuple[str, ...], message: str, tmp_path, capsys: pytest.CaptureFixture[str]
):
    assert message in error_of(capsys, "lab", "pretrain", *words, "--out", tmp_path / "base", code=2)
    assert not (tmp_path / "base").exists()
