from pathlib import Path

import pytest
import yaml

from rewarddance.rewards.loading import new_reward_model
from tests.cli.command_line import error_of
from tests.tiny_generators import tiny_generator_folder
from tests.tiny_models import save_tiny_model


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_generator_folder("wan", tmp_path_factory.mktemp("generators") / "wan")


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model("internvl", tmp_path_factory.mktemp("models") / "judge")


@pytest.fixture(scope="module")
def pointwise(judge: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Judges clips without reference images."""
    folder = tmp_path_factory.mktemp("models") / "pointwise"
    new_reward_model(judge, "pointwise").save(folder)
    return folder


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("a red circle\na blue square\n")
    return path


@pytest.mark.parametrize("words", [(), ("--dry-run",)])
def test_a_search_refuses_a_generator_of_clips(
    wan: Path, judge: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
):
    command = ("search", "best-of-n", wan, judge, prompts, "--out", tmp_path / "out", *words)
    assert "wan makes clips, and a search knows pictures only; take a" in error_of(capsys, *command, code=2)


def test_reference_images_are_not_made_by_a_generator_of_clips(
    wan: Path, judge: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    error = error_of(capsys, "references", wan, judge, prompts, "--out", tmp_path / "out", code=2)
    assert "wan makes clips, and a tournament of reference images knows pictures only" in error


@pytest.mark.parametrize("words", [(), ("--dry-run",)])
def test_alignment_refuses_a_generator_of_clips(
    wan: Path,
    pointwise: Path,
    prompts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
):
    config = tmp_path / "align.yaml"
    tree = {"generator": {"path": str(wan)}, "rewards": [{"model": str(pointwise)}], "prompts": {"train": str(prompts)}}
    config.write_text(yaml.safe_dump({**tree, "out": str(tmp_path / "run")}))
    error = error_of(capsys, "align", config, *words, code=2)
    assert "makes clips, and alignment knows pictures only; take" in error
