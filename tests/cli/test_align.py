import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from rewarddance.cli.align_inputs import load_inputs
from rewarddance.config.alignment import AlignConfig, PromptsConfig
from rewarddance.config.loader import load_config
from rewarddance.generators.loading import load_generator
from rewarddance.lab.generator_weights import lab_generator
from rewarddance.rewards.loading import new_reward_model
from tests.cli import spoiled
from tests.cli.command_line import contents, error_of, run
from tests.tiny_generators import GENERATOR_FAMILIES, TINY_SIZE, GeneratorFamily, tiny_generator_folder
from tests.tiny_models import save_tiny_model

PROMPTS = ("a red circle", "a blue square", "two green stars")
METHODS: Mapping[str, Mapping[str, Any]] = {
    "refl": {},
    "draft": {"last_steps": 1},
    "flow_grpo": {"group_size": 2, "clip_range": 0.01},
    "diffusion_nft": {"group_size": 2, "noise_levels": 1},
}
USUAL = [("sd3", "refl"), ("flux", "draft"), ("qwen_image", "flow_grpo"), ("sd3", "diffusion_nft")]
OTHERS = [(family, method) for family in GENERATOR_FAMILIES for method in METHODS if (family, method) not in USUAL]


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model("internvl", tmp_path_factory.mktemp("models") / "judge")


@pytest.fixture(scope="module")
def generators(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("generators")
    return {family: tiny_generator_folder(family, folder / family) for family in GENERATOR_FAMILIES}


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("".join(f"{prompt}\n" for prompt in PROMPTS))
    return path


@pytest.fixture(scope="module")
def references(generators: dict[str, Path], judge: Path, prompts: Path, tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("references") / "references"
    words = ("--out", folder, "--candidates", 2, "--top", 1, "--steps", 1)
    assert run("references", generators["sd3"], judge, prompts, *words) == 0
    return folder


class Recipe:
    """A small config that works, to be spoiled in one way or another."""

    def __init__(self, tmp_path: Path, generators: dict[str, Path], judge: Path, prompts: Path, references: Path):
        self.path, self.out = tmp_path / "align.yaml", tmp_path / "run"
        self._generators = generators
        self.tree: dict[str, Any] = {
            "rewards": [{"model": str(judge)}],
            "prompts": {"train": str(prompts)},
            "references": {"folder": str(references)},
            "sampling": {"denoising_steps": 2, "height": TINY_SIZE, "width": TINY_SIZE},
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

    def write(self, family: GeneratorFamily = "sd3", method: str = "refl", **more: Any) -> Path:
        blocks = {
            "generator": {"path": str(self._generators[family]), "lora": {"rank": 2, "alpha": 4}},
            "method": {"name": method, **METHODS.get(method, {})},
        }
        self.path.write_text(yaml.safe_dump(self.tree | blocks | more))
        return self.path


@pytest.fixture
def recipe(tmp_path: Path, generators: dict[str, Path], judge: Path, prompts: Path, references: Path) -> Recipe:
    return Recipe(tmp_path, generators, judge, prompts, references)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def weights_of(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in contents(folder).items() if name.endswith(".safetensors")}


def check_run(recipe: Recipe, base: Path) -> None:
    """A run folder that is complete, with a generator that has learned."""
    rows, evaluations = rows_of(recipe.out / "metrics.jsonl"), rows_of(recipe.out / "evaluations.jsonl")
    assert [row["optimizer_step"] for row in rows] == [1, 2]
    assert [row["optimizer_step"] for row in evaluations] == [0, 2]
    assert all(row["gradient_norm"] > 0 for row in rows)
    assert len(list((recipe.out / "samples" / "step-00000002").glob("*.png"))) == 2
    assert "Before and after" in (recipe.out / "report.html").read_text()
    name = "transformer/diffusion_pytorch_model.safetensors"
    before, after = load_file(base / name), load_file(recipe.out / "generator" / name)
    assert before.keys() == after.keys()
    changed = {key for key in before if not before[key].equal(after[key])}
    assert changed
    assert all("to_" in key for key in changed)
    assert load_generator(recipe.out / "generator", device="cpu").name == load_generator(base, device="cpu").name


@pytest.mark.parametrize(("family", "method"), USUAL)
def test_a_generator_is_tuned(
    recipe: Recipe,
    generators: dict[str, Path],
    family: GeneratorFamily,
    method: str,
    capsys: pytest.CaptureFixture[str],
):
    assert run("align", recipe.write(family, method)) == 0
    check_run(recipe, generators[family])
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        "all optimizer steps made after 2 optimizer steps",
        str(recipe.out / "generator"),
        str(recipe.out / "report.html"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "method"), OTHERS)
def test_every_method_tunes_every_family(
    recipe: Recipe, generators: dict[str, Path], family: GeneratorFamily, method: str
):
    assert run("align", recipe.write(family, method)) == 0
    check_run(recipe, generators[family])


def test_a_guarded_run_says_what_the_guard_says(recipe: Recipe, judge: Path, capsys: pytest.CaptureFixture[str]):
    words = ("--set", "guard={}", "--set", f"judges=[{{model: {judge}, shift: 1}}]", "--json")
    assert run("align", recipe.write(), *words) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["is_finished"]
    assert result["verdict"] in ("healthy", "warning", "hacking")
    assert "<h2>Guard</h2>" in Path(result["report"]).read_text()


def test_new_references_are_made_by_the_policy_on_its_way(recipe: Recipe):
    recipe.tree["references"] |= {"refresh_every": 1}
    assert run("align", recipe.write()) == 0
    made = sorted(path.name for path in (recipe.out / "references").iterdir())
    # Not at step 2, the end, where nobody would be judged against them.
    assert made == ["generation-0001"]


def test_new_references_are_made_as_the_first_ones_were(recipe: Recipe, references: Path):
    recipe.tree["references"] |= {"refresh_every": 1}
    recipe.tree["sampling"] |= {"denoising_steps": 3}
    assert run("align", recipe.write()) == 0
    first = json.loads((references / "generation-0000" / "settings.json").read_text())
    made = json.loads((recipe.out / "references" / "generation-0001" / "settings.json").read_text())
    assert made["sampling"] == first["sampling"]
    assert made["sampling"]["denoising_steps"] == 1


@pytest.mark.parametrize("is_changed", [False, True])
def test_references_of_a_policy_that_will_not_be_are_forgotten(recipe: Recipe, is_changed: bool):
    recipe.tree["references"] |= {"refresh_every": 1}
    recipe.tree |= {"optimizer_steps": 4}
    path = recipe.write()
    assert run("align", path) == 0
    shutil.rmtree(recipe.out / "checkpoints" / "step-00000004")
    shutil.rmtree(recipe.out / "generator")
    marker = recipe.out / "references" / "generation-0003" / "marker"
    marker.touch()
    changes = {"optimizer": {"learning_rate": 1e-3}} if is_changed else {}
    assert run("align", recipe.write(**changes), "--resume") == 0
    # after step 2 the policy goes another way only with another rate
    assert marker.parent.is_dir()
    assert marker.is_file() != is_changed


def test_new_references_are_of_prompts_to_come_and_a_run_resumed_between_two_ends_alike(recipe: Recipe, tmp_path: Path):
    (tmp_path / "train.txt").write_text("".join(f"{prompt}\n" for prompt in PROMPTS[:2]))
    (tmp_path / "held_out.txt").write_text(f"{PROMPTS[2]}\n")
    recipe.tree["references"] |= {"refresh_every": 2}
    recipe.tree |= {"prompts": {"train": str(tmp_path / "train.txt"), "held_out": str(tmp_path / "held_out.txt")}}
    recipe.tree |= {"optimizer_steps": 6, "batch_size": 1, "evaluation_prompts": 1, "keep_checkpoints": 3}
    path = recipe.write()
    assert run("align", path) == 0
    # Of two prompts, each is drawn in any two steps; the held-out one is not drawn at all.
    made = sorted((recipe.out / "references").iterdir())
    assert [place.name for place in made] == ["generation-0002", "generation-0004"]
    for place in made:
        assert {row["prompt"] for row in rows_of(place / "rows.jsonl")} == set(PROMPTS[:2])
    before = weights_of(recipe.out / "generator")
    for name in ("checkpoints/step-00000004", "checkpoints/step-00000006", "generator"):
        shutil.rmtree(recipe.out / name)
    shutil.rmtree(made[1])
    assert run("align", path, "--resume") == 0
    assert weights_of(recipe.out / "generator") == before


@pytest.mark.parametrize("words", [(), ("--dry-run",)])
def test_new_references_for_a_reward_that_compares_with_none_are_refused(
    recipe: Recipe, judge: Path, tmp_path: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
):
    new_reward_model(judge, "pointwise").save(tmp_path / "pointwise")
    recipe.tree["references"] |= {"refresh_every": 1}
    path = recipe.write(rewards=[{"model": str(tmp_path / "pointwise")}])
    message = error_of(capsys, "align", path, *words, code=2)
    assert "references.refresh_every makes new reference images, and no reward compares with any" in message
    assert not recipe.out.exists()


@pytest.mark.parametrize("refresh_every", [None, 1])
def test_a_run_whose_inputs_have_changed_is_not_resumed(
    recipe: Recipe,
    judge: Path,
    prompts: Path,
    tmp_path: Path,
    refresh_every: int | None,
    capsys: pytest.CaptureFixture[str],
):
    own, reward = Path(shutil.copy(prompts, tmp_path / "own.txt")), shutil.copytree(judge, tmp_path / "reward")
    recipe.tree["references"] |= {"refresh_every": refresh_every}
    path = recipe.write(prompts={"train": str(own)}, rewards=[{"model": str(reward)}])
    assert run("align", path) == 0
    own.write_text("".join(f"{prompt}\n" for prompt in PROMPTS[:2]))
    shutil.rmtree(reward)
    save_tiny_model("qwen3_vl", reward)
    before = contents(recipe.out)
    message = error_of(capsys, "align", path, "--resume", code=2)
    assert "what prompts.train, references.folder, rewards.0.model names is not what the run has read so far" in message
    assert contents(recipe.out) == before


def test_gold_stands_beside_a_run_of_the_labs_generator(recipe: Recipe, judge: Path, tmp_path: Path):
    new_reward_model(judge, "pointwise").save(tmp_path / "pointwise")
    foreign, own = tmp_path / "foreign.txt", tmp_path / "own.txt"
    foreign.write_text("a circle red\n")
    own.write_text("a red circle left of a square\n")
    lab = {"path": "lab:drawn", "lora": {"target_modules": ["to_q"]}}
    recipe.tree |= {"rewards": [{"model": str(tmp_path / "pointwise")}], "sampling": {"denoising_steps": 2}}
    recipe.tree |= {"prompts": {"train": str(own)}, "evaluation_prompts": 1}
    config = load_config(AlignConfig, recipe.write(generator=lab))
    curves = load_inputs(config, resume=False).extra_curves
    assert curves is not None
    assert 0 < curves(load_generator(lab_generator()), 0)["gold"] < 1
    elsewhere = config.model_copy(update={"prompts": PromptsConfig(train=foreign)})
    assert load_inputs(elsewhere, resume=False).extra_curves is None


@pytest.mark.parametrize("words", [(), ("--dry-run",)])
@pytest.mark.parametrize("place", ["train", "held_out"])
def test_a_prompt_that_the_generator_cannot_read_is_named_before_any_work(
    recipe: Recipe, tmp_path: Path, words: tuple[str, ...], place: str, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "mixed.txt").write_text("a red circle\n\na dog\n")
    lab = {"path": "lab:drawn", "lora": {"target_modules": ["to_q"]}}
    path = recipe.write(generator=lab, prompts={"train": str(tmp_path / "own.txt"), place: str(tmp_path / "mixed.txt")})
    (tmp_path / "own.txt").write_text("a red circle\n")
    message = error_of(capsys, "align", path, *words, code=1)
    assert "mixed.txt: line 3: this generator does not know the word 'dog'" in message
    assert not recipe.out.exists()


@pytest.mark.parametrize("words", [(), ("--dry-run",)])
def test_a_prompt_of_pictures_to_learn_from_that_the_generator_cannot_read_is_named_before_any_work(
    recipe: Recipe, tmp_path: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
):
    pictures, own = tmp_path / "pictures.jsonl", tmp_path / "own.txt"
    own.write_text("a red circle\n")
    rows = [{"prompt": prompt, "image": "align.yaml"} for prompt in ("a red circle", "a dog")]
    pictures.write_text("\n\n".join(json.dumps(row) for row in rows), encoding="utf-8-sig")
    regulariser = {"pretraining_weight": 1.0, "pretraining_data": str(pictures)}
    lab = {"path": "lab:drawn", "lora": {"target_modules": ["to_q"]}}
    path = recipe.write(generator=lab, prompts={"train": str(own)}, evaluation_prompts=1, regulariser=regulariser)
    message = error_of(capsys, "align", path, *words, code=1)
    assert "pictures.jsonl: line 3: this generator does not know the word 'dog'" in message
    assert not recipe.out.exists()


def test_the_reward_may_be_a_model_of_the_lab(recipe: Recipe, generators: dict[str, Path]):
    assert run("align", recipe.write(rewards=[{"model": "lab:nano"}])) == 0
    check_run(recipe, generators["sd3"])
    assert yaml.safe_load((recipe.out / "config.yaml").read_text())["rewards"][0]["model"] == "lab:nano"


def test_a_finished_run_is_not_begun_again_but_can_be_resumed(recipe: Recipe, capsys: pytest.CaptureFixture[str]):
    path = recipe.write()
    assert run("align", path) == 0
    before = weights_of(recipe.out / "generator")
    message = error_of(capsys, "align", path, code=2)
    assert "holds a run already; resume it with --resume, or give another `out`" in message
    assert run("align", path, "--resume") == 0
    assert weights_of(recipe.out / "generator") == before


@pytest.mark.parametrize("way", ["link", "copy", "home", "other spelling"])
@pytest.mark.parametrize("words", [("--dry-run",), ()])
def test_a_judge_that_is_the_reward_under_another_name_is_refused(
    recipe: Recipe,
    judge: Path,
    tmp_path: Path,
    way: str,
    words: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    other = tmp_path / "other"
    if way == "home":
        monkeypatch.setenv("HOME", str(judge.parent))
        other = Path("~") / judge.name
    if way == "link":
        other.symlink_to(judge)
    if way == "copy":
        shutil.copytree(judge, other)
    if way == "other spelling":
        other = judge.parent / "absent" / ".." / judge.name
        (judge.parent / "absent").mkdir(exist_ok=True)
    path = recipe.write(judges=[{"model": str(other)}], guard={})
    assert f"which is the reward {judge}" in error_of(capsys, "align", path, *words, code=2)
    assert not recipe.out.exists()


def test_a_resumed_run_meets_references_that_it_has_seen_with_the_same_bits(recipe: Recipe):
    recipe.tree |= {"optimizer_steps": 5, "save_every": 1, "keep_checkpoints": 9, "batch_size": 2}
    path = recipe.write(optimizer={"learning_rate": 1e-2})
    assert run("align", path) == 0
    last = recipe.out / "checkpoints" / "step-00000005"
    before = weights_of(last)
    for step in range(3, 6):
        shutil.rmtree(recipe.out / "checkpoints" / f"step-{step:08}")
    shutil.rmtree(recipe.out / "generator")
    assert run("align", path, "--resume") == 0
    assert weights_of(last) == before


# A run beside files that are not its own


@pytest.mark.parametrize("name", ["generator", "adapter", "checkpoints", "report.html"])
def test_a_new_run_takes_the_place_of_nothing_that_is_there(
    recipe: Recipe, generators: dict[str, Path], name: str, capsys: pytest.CaptureFixture[str]
):
    shutil.copytree(generators["sd3"], recipe.out / name)
    before = contents(recipe.out)
    message = error_of(capsys, "align", recipe.write(), code=2)
    assert f"{recipe.out} has no config.yaml of a run, but holds {name}, which a run would replace" in message
    assert "give another `out`" in message
    assert contents(recipe.out) == before


def test_a_finished_run_whose_base_lies_where_it_writes_is_not_resumed(
    recipe: Recipe, capsys: pytest.CaptureFixture[str]
):
    assert run("align", recipe.write()) == 0
    before = contents(recipe.out)
    own = recipe.out / "generator"
    message = error_of(capsys, "align", recipe.write(), "--resume", "--set", f"generator.path={own}", code=2)
    assert (
        f"generator.path is {own}, which lies in {own}, and the run writes there; copy it to another place" in message
    )
    assert contents(recipe.out) == before


@pytest.mark.parametrize(
    ("key", "place"),
    [
        ("rewards=[{{model: {path}}}]", "adapter/judge"),
        ("judges=[{{model: {path}, shift: 1}}]", "checkpoints"),
        ("prompts.train={path}", "samples/prompts.txt"),
        ("references.folder={path}", "references"),
    ],
)
def test_what_a_run_reads_may_not_lie_where_it_writes(
    recipe: Recipe, key: str, place: str, capsys: pytest.CaptureFixture[str]
):
    path = recipe.out / place
    path.mkdir(parents=True)
    link = recipe.path.with_name("link")
    link.symlink_to(path)
    words = ("--set", "references.refresh_every=1", "--set", key.format(path=link))
    message = error_of(capsys, "align", recipe.write(), *words, code=2)
    assert f"is {link}, which lies in {recipe.out / Path(place).parts[0]}" in message
    assert path.is_dir()


def test_other_files_beside_a_run_are_left_alone(recipe: Recipe, prompts: Path):
    recipe.out.mkdir()
    own = Path(shutil.copy(prompts, recipe.out / "prompts.txt"))
    assert run("align", recipe.write(prompts={"train": str(own)})) == 0
    assert own.read_bytes() == prompts.read_bytes()


# The memory plan


def test_a_dry_run_shows_every_model_and_writes_nothing(recipe: Recipe, capsys: pytest.CaptureFixture[str]):
    assert run("align", recipe.write(), "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "3 training prompts, 2 evaluation prompts"
    assert {line.split("  ")[0] for line in lines[2:9]} >= {"transformer", "vae", "reward judge", "all"}
    assert not recipe.out.exists()


def test_a_dry_run_in_json_adds_up(recipe: Recipe, capsys: pytest.CaptureFixture[str]):
    assert run("align", recipe.write(rewards=[{"model": "lab:nano"}]), "--dry-run", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["total"] == sum(part["total"] for part in plan["parts"])
    assert "reward lab:nano" in [part["name"] for part in plan["parts"]]


def test_a_dry_run_counts_a_model_once_for_every_kind_in_which_it_is_loaded(
    recipe: Recipe, capsys: pytest.CaptureFixture[str]
):
    def parts(*kinds: str) -> int:
        rewards = [{"model": "lab:nano", "kind": kind, "instruction": "brief"} for kind in kinds]
        assert run("align", recipe.write(rewards=rewards), "--dry-run", "--json") == 0
        return [part["name"] for part in json.loads(capsys.readouterr().out)["parts"]].count("reward lab:nano")

    assert parts("pairwise", "pairwise") == 1
    assert parts("pairwise", "pointwise") == 2


def test_a_dry_run_finds_prompts_without_references(recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "more.txt").write_text("a purple cube\n")
    words = ("--dry-run", "--set", f"prompts.held_out={tmp_path / 'more.txt'}")
    assert "has no reference image for 1 of 4 prompts" in error_of(capsys, "align", recipe.write(), *words, code=2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--set", "guard={}"), "name in judges a reward model"),
        (("--set", "references.count=2"), "make references in another folder with --top 2"),
        (("--set", "references.folder=null"), "references.folder is not set; make them with `rewarddance references`"),
        (("--set", "references={folder: null, refresh_every: 1}"), "references.folder is not set; make them with"),
        (("--set", "rewards=[{model: {judge}, instruction: no_such_criteria}]"), "no_such_criteria"),
        (("--set", "judges=[{model: {judge}, instruction: no_such_criteria}]"), "no_such_criteria"),
        (("--set", "generator.lora.target_modules=[to_x]"), "to_x"),
        (("--set", "generator.lora.rank=99999999"), "generator.lora.rank is 99,999,999"),
        (("--set", "generator.revision=main"), "has no revision 'main'"),
        (("--set", "augmentation.shift=5000"), "augmentation.shift is 5000"),
        (("--set", "guard={}", "--set", "judges=[{model: j}]", "--set", "prompts.held_out={one}"), "at least two"),
    ],
)
def test_a_dry_run_finds_what_would_be_refused_once_models_are_loaded(
    recipe: Recipe,
    judge: Path,
    tmp_path: Path,
    words: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
):
    (tmp_path / "one.txt").write_text(f"{PROMPTS[0]}\n")
    chosen = [word.replace("{one}", str(tmp_path / "one.txt")).replace("{judge}", str(judge)) for word in words]
    assert message in error_of(capsys, "align", recipe.write(), "--dry-run", *chosen, code=2)


def test_a_dry_run_finds_a_folder_that_a_run_may_not_have(recipe: Recipe, capsys: pytest.CaptureFixture[str]):
    (recipe.out / "generator").mkdir(parents=True)
    assert "holds generator, which a run would replace" in error_of(
        capsys, "align", recipe.write(), "--dry-run", code=2
    )


def test_a_dry_run_knows_that_a_pointwise_reward_needs_no_references(recipe: Recipe, judge: Path, tmp_path: Path):
    new_reward_model(judge, "pointwise").save(tmp_path / "pointwise")
    words = ("--set", "references.folder=null", "--set", f"rewards=[{{model: {tmp_path / 'pointwise'}}}]")
    assert run("align", recipe.write(), "--dry-run", *words) == 0


def test_a_dry_run_leaves_out_of_the_plan_what_a_service_holds(
    recipe: Recipe, judge: Path, capsys: pytest.CaptureFixture[str]
):
    service = {"url": "http://127.0.0.1:9/v1", "served_model": "large", "zero_shot": True}
    judges = [
        {"model": "somebody/large", "kind": "pointwise", "service": service},
        {"model": str(judge), "kind": "pointwise", "shift": 1, "dtype": "bfloat16"},
    ]
    assert run("align", recipe.write(judges=judges, guard={}), "--dry-run", "--json") == 0
    parts = {part["name"]: part for part in json.loads(capsys.readouterr().out)["parts"]}
    assert [name for name in parts if name.startswith("judge ")] == ["judge judge"]
    assert parts["judge judge"]["weights"] == 2 * parts["judge judge"]["parameters"]


@pytest.mark.parametrize("words", [(), ("--dry-run",)])
def test_a_reference_image_that_is_another_one_is_named_before_the_run_begins(
    recipe: Recipe, references: Path, tmp_path: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
):
    copy = shutil.copytree(references, tmp_path / "references")
    first, second = sorted((copy / "generation-0000" / "images").iterdir())[:2]
    shutil.copy(second, first)
    words = (*words, "--set", f"references.folder={copy}")
    message = error_of(capsys, "align", recipe.write(), *words, code=1)
    assert f"{first} is no longer the picture that was chosen (its sha256 differs); put it back" in message
    assert not recipe.out.exists()


# Bad input


def test_a_typo_in_the_config_is_named(recipe: Recipe, capsys: pytest.CaptureFixture[str]):
    message = error_of(capsys, "align", recipe.write(optimizer={"learning_rat": 1}), code=2)
    assert "unknown key 'optimizer.learning_rat'; did you mean 'optimizer.learning_rate'?" in message
    assert not recipe.out.exists()


def test_an_unknown_method_is_named_with_the_known_ones(recipe: Recipe, capsys: pytest.CaptureFixture[str]):
    message = error_of(capsys, "align", recipe.write(method="ppo"), code=2)
    assert "'method.name' cannot be 'ppo'; choose from" in message
    assert "flow_grpo" in message


@pytest.mark.parametrize(
    ("override", "code", "words"),
    [
        ("prompts.train={tmp}/absent.txt", 1, "absent.txt: no such file"),
        ("prompts.train={tmp}/empty.txt", 1, "empty.txt: holds no prompts"),
        ("references.folder=null", 2, "references.folder is not set; make them with `rewarddance references`"),
        ("references.folder={tmp}/absent", 1, "has no references; make them with `rewarddance references`"),
        ("prompts.train={tmp}/other.txt", 2, "has no reference image for 1 of 1 prompts, such as 'a purple cube'"),
        ("generator.path={tmp}/absent", 1, "absent does not exist; give a folder or a hub id"),
        ("generator.path={tmp}/prompts.txt", 1, "prompts.txt is a file"),
        ("generator.path=lab:absent", 2, "no lab generator named 'absent'"),
        ("rewards=[{{model: {tmp}/absent}}]", 1, "absent does not exist; give a folder or a hub id"),
        ("rewards=[]", 2, "rewards"),
        ("guard={{}}", 2, "guard needs a held-out judge; name in judges a reward model"),
        (
            "references.count=2",
            2,
            "keeps 1 of each prompt at the top; lower it, or make references in another folder with --top 2",
        ),
        ("generator.lora.target_modules=[to_x]", 2, "to_x"),
        ("method.window=[0.9, 0.1]", 2, "window [0.9, 0.1] is empty"),
        ("references.refresh_every=1", 2, "references.folder"),
    ],
)
def test_what_cannot_work_is_one_line_and_leaves_no_run_behind(
    recipe: Recipe, tmp_path: Path, override: str, code: int, words: str, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "empty.txt").touch()
    (tmp_path / "other.txt").write_text("a purple cube\n")
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    chosen = ["--set", override.format(tmp=tmp_path)]
    if override.startswith("references.refresh_every"):
        chosen += ["--set", "references.folder=null"]
    assert words in error_of(capsys, "align", recipe.write(), *chosen, code=code)
    assert not (recipe.out / "config.yaml").exists()


def test_a_generator_folder_with_a_pickle_is_refused_and_the_pickle_not_read(
    recipe: Recipe, generators: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    copy = shutil.copytree(generators["sd3"], tmp_path / "generator")
    sprung = spoiled.add_pickle(copy / "transformer")
    message = error_of(capsys, "align", recipe.write(), "--set", f"generator.path={copy}", code=1)
    assert "pytorch_model.bin may be a pickle" in message
    assert not sprung.exists()


def test_a_damaged_generator_is_named_before_a_dry_run_says_anything(
    recipe: Recipe, generators: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    copy = shutil.copytree(generators["sd3"], tmp_path / "generator")
    (copy / "transformer" / "diffusion_pytorch_model.safetensors").write_bytes(b"cut off")
    words = ("--dry-run", "--set", f"generator.path={copy}")
    message = error_of(capsys, "align", recipe.write(), *words, code=1)
    assert "transformer/diffusion_pytorch_model.safetensors has no readable header" in message


def test_a_second_stage_goes_on_from_the_adapter_of_the_first(recipe: Recipe, tmp_path: Path):
    assert run("align", recipe.write(), "--set", "save_every=1") == 0
    adapter = recipe.out / "adapter"
    first = rows_of(recipe.out / "evaluations.jsonl")[-1]
    words = ("--set", f"generator.adapter={adapter}", "--set", "evaluation_batch_size=2")
    assert run("align", recipe.path, *words, "--set", f"out={tmp_path / 'second'}") == 0
    begun, *_ = rows_of(tmp_path / "second" / "evaluations.jsonl")
    # The same prompts and noise, judged alike; and the first stage belongs to the reference policy of the second.
    assert begun["proxy"] == first["proxy"]
    assert (begun["kl"], first["kl"] > 0) == (0.0, True)
    assert load_file(tmp_path / "second" / "adapter" / "pytorch_lora_weights.safetensors")


def test_an_adapter_that_does_not_exist_is_named_before_anything_is_loaded(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("rewarddance.training.judging_models.load_reward_model", None)
    for more in ((), ("--dry-run",)):
        message = error_of(capsys, "align", recipe.write(), "--set", f"generator.adapter={tmp_path}", *more, code=1)
        assert "holds no adapter" in message
