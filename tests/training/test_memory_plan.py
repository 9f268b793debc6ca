import json
import struct
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from rewarddance.config.alignment import AlignConfig, GeneratorLoraConfig
from rewarddance.core.errors import ModelError, UsageError
from rewarddance.generators.loading import load_generator
from rewarddance.rewards.backbones.kept_states import bytes_beside_training
from rewarddance.training.activation_sizes import (
    Side,
    decoder_values,
    judge_values,
    passes_per_step,
    transformer_values,
)
from rewarddance.training.memory_plan import MemoryPart, MemoryPlan, StoredModel, adapter_parameters, plan_memory
from rewarddance.training.policy import Policy
from rewarddance.training.weight_headers import FolderFiles, parameters_in, stored_files, tensor_shapes
from tests.tiny_generators import tiny_adapter_folder, tiny_generator_folder
from tests.tiny_models import save_tiny_model

SD3 = "StableDiffusion3Pipeline"


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_generator_folder("sd3", tmp_path_factory.mktemp("generators") / "sd3")


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model("internvl", tmp_path_factory.mktemp("models") / "judge")


def config_of(folder: Path, judge: Path, **more: Any) -> AlignConfig:
    tree: dict[str, Any] = {
        "generator": {"path": str(folder), "dtype": "float32"},
        "rewards": [{"model": str(judge)}],
        "prompts": {"train": "prompts.txt"},
        "precision": "float32",
    }
    return AlignConfig.model_validate(tree | more)


def plan_of(folder: Path, judge: Path, **more: Any) -> MemoryPlan:
    config = config_of(folder, judge, **more)
    # Of another kind, the same folder is another model.
    rewards, judges = [StoredModel("tiny", str(judge))], [StoredModel("tiny", str(judge), kind="pointwise")]
    return plan_memory(config, StoredModel("generator", str(folder)), rewards, judges)


def part(plan: MemoryPlan, name: str) -> MemoryPart:
    return next(found for found in plan.parts if found.name == name)


def test_every_model_of_a_run_is_a_part(generator: Path, judge: Path):
    names = [found.name for found in plan_of(generator, judge).parts]
    encoders = {"text encoder", "text encoder 2", "text encoder 3"}
    assert set(names) == {"transformer", *encoders, "vae", "reward tiny", "judge tiny"}


def test_parameters_are_those_of_the_stored_tensors(generator: Path, judge: Path):
    stored = load_file(judge / "model.safetensors")
    assert part(plan_of(generator, judge), "reward tiny").parameters == sum(t.numel() for t in stored.values())


def test_a_reward_model_of_half_the_precision_has_half_the_weights(generator: Path, judge: Path):
    half = StoredModel("half", str(judge), dtype="bfloat16")
    plan = plan_memory(config_of(generator, judge), StoredModel("generator", str(generator)), [half])
    found = part(plan, "reward half")
    assert found.weights == 2 * found.parameters


def test_a_model_with_several_uses_is_in_memory_once_and_its_activations_for_each_that_is_climbed(
    generator: Path, judge: Path, tmp_path: Path
):
    (tmp_path / "link").symlink_to(judge)
    uses = [StoredModel("one", str(judge)), StoredModel("two", str(tmp_path / "link"))]
    config = config_of(generator, judge, references={"folder": "references"})
    plan = plan_memory(config, StoredModel("generator", str(generator)), uses, uses[1:])
    (shared,) = [found for found in plan.parts if "reward" in found.name or "judge" in found.name]
    alone = part(plan_of(generator, judge, references={"folder": "references"}), "reward tiny")
    assert shared.name == "reward and judge one"
    assert (shared.weights, shared.kept) == (alone.weights, alone.kept)
    assert shared.activations == 2 * alone.activations > 0


def test_what_learns_is_what_the_policy_trains(generator: Path, judge: Path):
    for lora in (GeneratorLoraConfig(rank=3, alpha=6), None):
        tree = None if lora is None else lora.model_dump()
        config = {"path": str(generator), "lora": tree, "dtype": "float32"}
        planned = part(plan_of(generator, judge, generator=config), "transformer").trained
        policy = Policy(load_generator(generator), lora, "float32", seed=0)
        assert planned == sum(parameter.numel() for parameter in policy.parameters.values())


def test_adapters_have_rank_times_both_sides_of_each_target_matrix():
    shapes = {"blocks.0.to_q.weight": (6, 4), "blocks.0.to_q.bias": (6,), "blocks.0.into_q.weight": (9, 9)}
    assert adapter_parameters(shapes, GeneratorLoraConfig(rank=2, target_modules=("to_q",))) == 2 * (6 + 4)


def test_target_modules_that_are_not_there_are_bad_usage(generator: Path, judge: Path):
    blocks = {"path": str(generator), "lora": {"target_modules": ["to_x"]}}
    with pytest.raises(UsageError, match="name no layer of the velocity network"):
        plan_of(generator, judge, generator=blocks)


def test_full_training_keeps_four_float32_numbers_a_weight_and_a_copy_of_the_reference(generator: Path, judge: Path):
    config = {"path": str(generator), "lora": None, "dtype": "float32"}
    found = part(plan_of(generator, judge, generator=config), "transformer")
    positions = 16 * 16 * 16  # a table of 16 by 16 places, 16 wide, which does not learn
    assert (found.parameters - found.trained, found.weights) == (positions, 4 * positions)
    assert (found.learning, found.copies) == (16 * found.trained, 4 * found.trained)


def test_adapters_need_no_copy_of_the_reference(generator: Path, judge: Path):
    assert part(plan_of(generator, judge), "transformer").copies == 0


def test_an_old_policy_and_refreshed_references_each_keep_a_copy_of_what_learns(generator: Path, judge: Path):
    more = {"method": {"name": "diffusion_nft"}, "references": {"refresh_every": 10}}
    found = part(plan_of(generator, judge, **more), "transformer")
    assert found.copies == 2 * 4 * found.trained


def test_a_guard_that_asks_for_new_references_keeps_a_copy_of_what_learns(generator: Path, judge: Path):
    guarded = {"guard": {"action": "refresh_references"}, "judges": [{"model": "other"}]}
    found = part(plan_of(generator, judge, **guarded), "transformer")
    assert found.copies == 4 * found.trained


def test_evaluations_of_more_pictures_than_a_step_has_are_planned_for(generator: Path, judge: Path):
    usual, wide = plan_of(generator, judge), plan_of(generator, judge, evaluation_batch_size=512)
    for name in ("transformer", "vae"):
        assert part(wide, name).activations > part(usual, name).activations
    few = plan_of(generator, judge, evaluation_batch_size=1)
    assert part(few, "transformer") == part(usual, "transformer")


def test_guidance_in_evaluations_alone_is_planned_for(generator: Path, judge: Path):
    """A large evaluation without guidance is one pass, and with guidance two."""
    few = {"sampling": {"guidance": 1.0}, "evaluation_batch_size": 512}
    plain = part(plan_of(generator, judge, **few), "transformer")
    guided = part(plan_of(generator, judge, **few, evaluation_sampling={"guidance": 4.5}), "transformer")
    assert guided.activations == 2 * plain.activations


def test_only_rewards_that_are_climbed_keep_activations(generator: Path, judge: Path):
    climbed, seen = plan_of(generator, judge), plan_of(generator, judge, method={"name": "flow_grpo"})
    assert part(climbed, "reward tiny").activations > part(seen, "reward tiny").activations == 0
    assert part(climbed, "judge tiny").activations == 0
    assert part(climbed, "vae").activations > part(seen, "vae").activations > 0


def test_a_climbed_reward_keeps_activations_for_every_reference_that_it_is_asked_about(generator: Path, judge: Path):
    def kept(count: int, combine: str = "mean") -> int:
        references = {"count": count, "combine": combine}
        return part(plan_of(generator, judge, references=references), "reward tiny").activations

    assert kept(3) == kept(3, "soft_min") == 3 * kept(1)
    assert kept(3, "random") == kept(1)
    # One question with all of them is longer, but text and candidate stand in it once.
    assert kept(1) < kept(3, "together") < kept(3)


def test_what_is_kept_of_reference_images_is_planned_for(generator: Path, judge: Path):
    with_references = plan_of(generator, judge, references={"folder": "references"})
    most = 2 * bytes_beside_training(None)
    assert [part(with_references, name).kept for name in ("reward tiny", "judge tiny", "vae")] == [most, most, 0]
    assert part(plan_of(generator, judge), "reward tiny").kept == 0
    assert bytes_beside_training(80 * 2**30) == 2**30
    assert bytes_beside_training(8 * 2**30) == 2**29


def test_checkpointing_reaches_the_rewards(generator: Path, judge: Path):
    config = {"path": str(generator), "dtype": "float32", "gradient_checkpointing": True}
    plain, checkpointed = plan_of(generator, judge), plan_of(generator, judge, generator=config)
    assert part(checkpointed, "reward tiny").activations < part(plain, "reward tiny").activations


def test_a_judge_reads_both_orders_and_sees_the_picture_once_a_comparison():
    config = {
        "image_seq_length": 10,
        "text_config": {"hidden_size": 4, "num_hidden_layers": 3},
        "vision_config": {"hidden_size": 2, "num_hidden_layers": 5, "patch_size": 8},
    }
    side = Side(16, 16)
    language, tower = (2 * 10 + 256) * 4, 4 * 2  # tokens by width of one layer
    assert judge_values(config, side, is_checkpointed=False) == 17 * (2 * 3 * language + 5 * tower)
    assert judge_values(config, side, is_checkpointed=True) == 2 * (3 + 17) * language + (5 + 17) * tower
    assert judge_values(config, side, is_checkpointed=False, comparisons=2) == 2 * 17 * (2 * 3 * language + 5 * tower)


def test_activations_grow_with_the_batch_and_with_steps_that_have_gradient(generator: Path, judge: Path):
    one, four = (part(plan_of(generator, judge, batch_size=size), "transformer") for size in (1, 4))
    assert four.activations == 4 * one.activations
    steps = {"method": {"name": "draft", "last_steps": 3}, "batch_size": 1}
    assert part(plan_of(generator, judge, **steps), "transformer").activations == 3 * one.activations


def test_a_large_batch_of_an_evaluation_counts_where_it_is_more_than_an_update(generator: Path, judge: Path):
    plain, small, large = (
        plan_of(generator, judge, batch_size=2, evaluation_batch_size=size) for size in (None, 2, 200)
    )
    assert plain.parts == small.parts
    for name in ("transformer", "vae"):
        assert part(large, name).activations > part(plain, name).activations
    assert part(large, "reward tiny") == part(plain, "reward tiny")


def test_guidance_by_the_empty_prompt_is_a_second_pass_and_embedded_guidance_is_not():
    assert passes_per_step(SD3, None) == 2
    assert passes_per_step(SD3, 1.0) == 1
    assert passes_per_step("FluxPipeline", 3.5) == 1


def test_a_transformer_layer_keeps_seventeen_values_for_each_token_and_unit():
    transformer = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 3, "patch_size": 2}
    vae = {"block_out_channels": [8, 8, 16, 16]}  # a latent stands for 8 pixels
    side = Side(64, 32)
    tokens = (64 // 16) * (32 // 16) + 77 + 256
    assert transformer_values(SD3, transformer, vae, side, is_checkpointed=False) == 3 * 17 * tokens * 16
    assert transformer_values(SD3, transformer, vae, side, is_checkpointed=True) == (3 + 17) * tokens * 16


@pytest.mark.parametrize(
    ("vae", "whole", "checkpointed", "without"),
    [
        ({"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2}, 19.5, 10.6, 2.50),
        ({"base_dim": 96, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2}, 16.8, 18.1, 3.38),
    ],
    ids=["sd3", "qwen_image"],
)
def test_a_decoder_holds_about_what_was_measured(vae: Any, whole: float, checkpointed: float, without: float):
    """GiB of one picture of 1024 by 1024 in bfloat16: peaks of live bytes of the real classes, on empty tensors."""
    side = Side(1024, 1024)

    def gib(is_checkpointed: bool, has_gradient: bool) -> float:
        return 2 * decoder_values(vae, side, is_checkpointed, has_gradient) / 2**30

    assert gib(False, True) == pytest.approx(whole, rel=0.25)
    assert gib(True, True) == pytest.approx(checkpointed, rel=0.25)
    assert gib(False, False) == pytest.approx(without, rel=0.1)


@pytest.mark.parametrize(("frames", "measured"), [(1, 5.77), (5, 21.2), (9, 36.7)])
def test_a_decoder_of_clips_holds_about_what_was_measured(frames: int, measured: float):
    """GiB of a clip of 480 by 832 in bfloat16: saved bytes of the real class, on empty tensors."""
    halved = [False, True, True]
    vae = {"base_dim": 96, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "temperal_downsample": halved}
    held = 2 * decoder_values(vae, Side(480, 832, frames), False, True) / 2**30
    assert held == pytest.approx(measured, rel=0.25)


def test_a_decoder_of_clips_holds_four_frames_at_once_without_gradient():
    vae = {"base_dim": 96, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "temperal_downsample": [False, True, True]}
    short, long = (decoder_values(vae, Side(480, 832, frames), False, False) for frames in (4, 81))
    assert short == long


def test_a_clip_has_a_token_for_every_patch_of_every_latent_frame():
    transformer = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 3, "patch_size": [1, 2, 2]}
    vae = {"temperal_downsample": [False, True, True]}
    # The first of nine frames, and two times four; a latent stands for 8 pixels, and the prompt stands apart.
    tokens = 3 * (64 // 16) * (32 // 16)
    kept = transformer_values("WanPipeline", transformer, vae, Side(64, 32, 9), is_checkpointed=False)
    assert kept == 3 * 24 * tokens * 16


def test_a_generator_of_clips_can_be_planned(judge: Path, tmp_path: Path):
    folder = tiny_generator_folder("wan", tmp_path / "wan")
    small = {"height": 32, "width": 48, "frames": 5}
    own, plan = plan_of(folder, judge), plan_of(folder, judge, sampling=small)
    # 81 frames of 480 by 832: 21 latent frames of 30 by 52 patches against 2 of 2 by 3
    ratio = part(own, "transformer").activations / part(plan, "transformer").activations
    assert ratio == pytest.approx(21 * 30 * 52 / (2 * 2 * 3))
    assert part(plan, "vae").activations > 0


def test_a_reward_looks_at_some_frames_of_a_clip(judge: Path):
    config = json.loads((judge / "config.json").read_text())
    picture, clip, long = (
        judge_values(config, Side(32, 32, frames), False, references=0, frames_per_clip=8) for frames in (1, 8, 81)
    )
    assert picture < clip == long
    # With the question's tokens counted once.
    assert clip < 8 * picture


def test_a_decoder_in_one_checkpoint_holds_all_of_itself():
    vae = {"base_dim": 8, "dim_mult": [1, 2], "num_res_blocks": 1}
    side = Side(4, 4)
    assert decoder_values(vae, side, True, True) == decoder_values(vae, side, False, True)


@pytest.mark.parametrize("family", ["flux", "qwen_image"])
def test_other_families_can_be_planned(family: Any, judge: Path, tmp_path: Path):
    plan = plan_of(tiny_generator_folder(family, tmp_path / family), judge)
    assert part(plan, "transformer").activations > 0
    assert part(plan, "vae").activations > 0


def test_no_weight_is_read(generator: Path, tmp_path: Path):
    # A header that promises ten terabytes, and nothing behind it.
    header = json.dumps({"big": {"dtype": "BF16", "shape": [5_000_000, 1_000_000], "data_offsets": [0, 1]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    assert parameters_in(tensor_shapes(FolderFiles(tmp_path))) == 5 * 10**12


def test_shards_are_added_up(tmp_path: Path):
    for name in ("a", "b"):
        header = json.dumps({name: {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}).encode()
        (tmp_path / f"model-{name}.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    shards = {"weight_map": {"a": "model-a.safetensors", "b": "model-b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(shards))
    assert tensor_shapes(FolderFiles(tmp_path)) == {"a": (2, 3), "b": (2, 3)}


@pytest.mark.parametrize("content", [b"", b"short", struct.pack("<Q", 2**60) + b"{}", struct.pack("<Q", 2) + b"[]"])
def test_a_damaged_header_is_named(tmp_path: Path, content: bytes):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors has no readable header"):
        tensor_shapes(FolderFiles(tmp_path))


def test_a_model_without_safetensors_is_an_error(tmp_path: Path):
    with pytest.raises(ModelError, match="there are no safetensors in the model folder"):
        tensor_shapes(FolderFiles(tmp_path))


def test_a_folder_that_is_not_there_is_no_hub_id(tmp_path: Path):
    with pytest.raises(ModelError, match="does not exist; give a folder or a hub id"):
        stored_files(str(tmp_path / "absent"))


def test_a_folder_of_something_else_holds_no_generator(judge: Path):
    with pytest.raises(ModelError, match="holds no generator"):
        plan_of(judge, judge)


def test_an_adapter_of_an_earlier_stage_is_held_in_float32(generator: Path, judge: Path, tmp_path: Path):
    """Four bytes a number, beside frozen weights of two."""
    adapter = tiny_adapter_folder(generator, tmp_path / "adapter")
    numbers = sum(value.numel() for value in load_file(adapter / "pytorch_lora_weights.safetensors").values())
    tree = {"path": str(generator), "dtype": "bfloat16"}
    without = part(plan_of(generator, judge, generator=tree), "transformer")
    found = part(plan_of(generator, judge, generator=tree | {"adapter": str(adapter)}), "transformer")
    assert (found.parameters - without.parameters, found.weights - without.weights) == (numbers, 4 * numbers)
    assert found.trained == without.trained
