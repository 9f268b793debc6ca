import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors.torch import load_file

from rewarddance.generators.loading import load_generator
from rewarddance.rewards.loading import new_reward_model
from tests.cli.command_line import error_of, run
from tests.tiny_generators import tiny_generator_folder
from tests.tiny_models import save_tiny_model

METHODS: Mapping[str, Mapping[str, Any]] = {
    "refl": {},
    "draft": {"last_steps": 1},
    "flow_grpo": {"group_size": 2, "clip_range": 0.01},
    "diffusion_nft": {"group_size": 2, "noise_levels": 1},
}


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


class Recipe:
    """A small run on clips of five frames that works, to be spoiled in one way or another."""

    def __init__(self, tmp_path: Path, wan: Path, pointwise: Path, prompts: Path):
        self.path, self.out = tmp_path / "align.yaml", tmp_path / "run"
        self.tree: dict[str, Any] = {
            "generator": {"path": str(wan), "lora": {"rank": 2, "alpha": 4}},
            "rewards": [{"model": str(pointwise)}],
            "prompts": {"train": str(prompts)},
            "sampling": {"denoising_steps": 2, "height": 32, "width": 48, "frames": 5},
            "batch_size": 2,
            "optimizer_steps": 2,
            "save_every": 2,
            "evaluate_every": 2,
            "samples_every": 2,
            "evaluation_prompts": 2,
            "evaluation_samples": 2,
            "sample_prompts": 1,
            "out": str(self.out),
        }

    def write(self, method: str = "refl", **more: Any) -> Path:
        blocks = {"method": {"name": method, **METHODS.get(method, {})}}
        self.path.write_text(yaml.safe_dump(self.tree | blocks | more))
        return self.path


@pytest.fixture
def recipe(tmp_path: Path, wan: Path, pointwise: Path, prompts: Path) -> Recipe:
    return Recipe(tmp_path, wan, pointwise, prompts)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("method", METHODS)
def test_a_generator_of_clips_is_tuned_by_every_method(recipe: Recipe, wan: Path, method: str):
    assert run("align", recipe.write(method)) == 0
    rows, evaluations = rows_of(recipe.out / "metrics.jsonl"), rows_of(recipe.out / "evaluations.jsonl")
    assert [row["optimizer_step"] for row in rows] == [1, 2]
    assert all(row["gradient_norm"] > 0 for row in rows)
    assert [row["optimizer_step"] for row in evaluations] == [0, 2]
    assert evaluations[0]["diversity"] > 0
    name = "transformer/diffusion_pytorch_model.safetensors"
    before, after = load_file(wan / name), load_file(recipe.out / "generator" / name)
    changed = {key for key in before if not before[key].equal(after[key])}
    assert changed
    assert all("to_" in key for key in changed)
    assert load_generator(recipe.out / "generator", device="cpu").name == "wan"


def test_samples_and_report_show_frames_of_a_clip_in_a_row(recipe: Recipe):
    assert run("align", recipe.write()) == 0
    shown = sorted((recipe.out / "samples" / "step-00000002").glob("*.png"))
    assert [path.name for path in shown] == ["0-0.png", "0-1.png"]
    # Four frames of five, 48 pixels wide, with two pixels between them.
    strip = np.asarray(Image.open(shown[0]))
    assert strip.shape == (32, 4 * 48 + 3 * 2, 3)
    assert (strip[:, 48:50] == 255).all()
    assert not (strip[:, :48] == strip[:, 150:198]).all()
    assert "Before and after" in (recipe.out / "report.html").read_text()


def test_a_guard_watches_clips(recipe: Recipe, pointwise: Path, capsys: pytest.CaptureFixture[str]):
    words = ("--set", "guard={}", "--set", f"judges=[{{model: {pointwise}, shift: 1}}]", "--json")
    assert run("align", recipe.write(), *words) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["verdict"] in ("healthy", "warning", "hacking")
    (first, *_) = rows_of(recipe.out / "observations.jsonl")
    assert set(first["statistics"]) >= {"brightness", "contrast"}
    assert len(first["held_out"]) == 1


def test_a_run_with_clips_can_be_resumed_and_ends_bit_by_bit_the_same(recipe: Recipe, tmp_path: Path):
    whole = tmp_path / "whole"
    assert run("align", recipe.write(augmentation={"shift": 1}), "--out", whole, "--set", "save_every=1") == 0
    again = tmp_path / "again"
    shutil.copytree(whole, again)
    shutil.rmtree(again / "generator")
    shutil.rmtree(again / "checkpoints" / "step-00000002")
    assert run("align", recipe.path, "--out", again, "--set", "save_every=1", "--resume") == 0
    name = "generator/transformer/diffusion_pytorch_model.safetensors"
    assert (again / name).read_bytes() == (whole / name).read_bytes()


def test_a_dry_run_counts_the_frames_of_clips(recipe: Recipe, capsys: pytest.CaptureFixture[str]):
    activations = []
    for frames in (5, 9):
        capsys.readouterr()
        assert run("align", recipe.write(), "--dry-run", "--json", "--set", f"sampling.frames={frames}") == 0
        parts = {part["name"]: part for part in json.loads(capsys.readouterr().out)["parts"]}
        activations.append({name: part["activations"] for name, part in parts.items()})
    few, many = activations
    # Two latent frames against three, and the reward looks at eight frames of nine.
    assert many["transformer"] * 2 == few["transformer"] * 3
    assert many["vae"] > 1.5 * few["vae"]
    assert many["reward pointwise"] > few["reward pointwise"]
    assert not recipe.out.exists()


@pytest.mark.parametrize("words", [(), ("--dry-run",)])
@pytest.mark.parametrize("frames", [4, 6])
def test_other_numbers_of_frames_are_refused(
    recipe: Recipe, capsys: pytest.CaptureFixture[str], frames: int, words: tuple[str, ...]
):
    command = ("align", recipe.write(), "--set", f"sampling.frames={frames}", *words)
    assert "more than a multiple of 4" in error_of(capsys, *command, code=2)
    assert not recipe.out.exists()


@pytest.mark.parametrize("words", [(), ("--dry-run",)])
def test_a_generator_of_pictures_takes_no_frames(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
):
    tiny_generator_folder("sd3", tmp_path / "sd3")
    command = ("align", recipe.write(generator={"path": str(tmp_path / "sd3")}), *words)
    error = error_of(capsys, *command, code=2)
    assert "makes pictures" in error
    assert "leave" in error


@pytest.mark.parametrize("words", [(), ("--dry-run",)])
def test_a_reward_that_compares_with_reference_images_is_refused(
    recipe: Recipe, judge: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
):
    error = error_of(capsys, "align", recipe.write(rewards=[{"model": str(judge)}]), *words, code=2)
    assert "makes clips, for which there are none; take pointwise or scalar reward models" in error


@pytest.mark.parametrize("words", [(), ("--dry-run",)])
def test_pictures_to_learn_beside_the_reward_are_refused(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
):
    Image.new("RGB", (32, 32)).save(tmp_path / "one.png")
    (tmp_path / "pictures.jsonl").write_text(json.dumps({"prompt": "a red circle", "image": "one.png"}) + "\n")
    pull = {"pretraining_weight": 1.0, "pretraining_data": str(tmp_path / "pictures.jsonl")}
    error = error_of(capsys, "align", recipe.write(regulariser=pull), *words, code=2)
    assert "pretraining_data holds pictures, and" in error
    assert not recipe.out.exists()


def test_a_reward_behind_a_service_is_refused(recipe: Recipe, capsys: pytest.CaptureFixture[str]):
    (reward,) = recipe.tree["rewards"]
    served = [{**reward, "service": {"url": "http://127.0.0.1:9/v1", "served_model": "tiny"}}]
    error = error_of(capsys, "align", recipe.write("flow_grpo", rewards=served), "--dry-run", code=2)
    assert "a reward model behind a service is asked about pictures, and" in error


def test_clips_of_the_reference_policy_hold_the_policy(recipe: Recipe):
    pull = {"pretraining_weight": 1.0, "velocity_weight": 0.1}
    assert run("align", recipe.write(regulariser=pull)) == 0
    assert all(row["method"]["pretraining_loss"] > 0 for row in rows_of(recipe.out / "metrics.jsonl"))
