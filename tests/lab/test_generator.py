from dataclasses import replace

import numpy as np
import pytest
import torch

from rewarddance.core.errors import CheckpointError, UsageError
from rewarddance.core.seeding import numpy_rng
from rewarddance.generators.drawn import load_drawn
from rewarddance.generators.loading import load_generator
from rewarddance.lab.alignment import HELD_OUT_NAME, TRAIN_NAME, write_prompts
from rewarddance.lab.generator_pretraining import GeneratorRecipe, draw_picture, pretrain_generator, tidied
from rewarddance.lab.generator_weights import lab_generator
from rewarddance.lab.gold import judge_picture
from rewarddance.lab.gold_curves import gold_curves, gold_table
from rewarddance.lab.prompts import KINDS, parse_prompt, sample_prompt
from rewarddance.lab.world import CELL, render, sample_scene
from tests.full_disk import files_end_at

TINY = GeneratorRecipe(pictures=24, batch=4, width=32, layers=1, save_every=2)


def test_the_base_generator_is_imperfect_but_not_without_skill():
    rng = numpy_rng(7, "prompts")
    prompts = tuple(dict.fromkeys(sample_prompt(rng, "in", kind).text for kind in KINDS for _ in range(8)))
    table = gold_table(load_generator(str(lab_generator()), device="cpu"), prompts, 2, seed=0)
    assert 0.4 < table.alignment.mean() < 0.7


def test_gold_of_the_same_noise_is_the_same():
    generator = load_generator(str(lab_generator()), device="cpu")
    curves = gold_curves(["a red circle", "two squares"], 2, seed=1)
    assert curves(generator, 0) == curves(generator, 10)


def test_tidying_keeps_what_a_scene_shows():
    for seed in range(40):
        rng = np.random.default_rng(seed)
        prompt = sample_prompt(rng, "in")
        scene = tidied(sample_scene(prompt, rng), rng)
        assert judge_picture(render(scene), prompt).alignment == 1
        for thing in scene.things:
            assert all(abs(middle % CELL - CELL / 2) <= 1.5 for middle in thing.centre)


def test_pictures_of_the_corpus_depend_on_the_seed_alone():
    first, second = (draw_picture(TINY, numpy_rng(0, "one")) for _ in range(2))
    assert first[0] == second[0]
    assert np.array_equal(first[1], second[1])


def test_pretraining_that_was_stopped_ends_with_the_same_weights(tmp_path):
    whole = load_drawn(pretrain_generator(TINY, tmp_path / "whole"))

    def stop(pictures: int) -> None:
        if pictures == 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain_generator(TINY, tmp_path / "halves", stop)
    resumed = load_drawn(pretrain_generator(TINY, tmp_path / "halves"))
    for ours, theirs in zip(whole.module.parameters(), resumed.module.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_pretraining_on_a_full_disk_stops_in_one_line_and_keeps_the_checkpoint_before(tmp_path):
    def stop(pictures: int) -> None:
        if pictures == 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain_generator(TINY, tmp_path, stop)
    before = {file.name: file.read_bytes() for file in tmp_path.glob("checkpoint*")}
    with files_end_at(1000), pytest.raises(CheckpointError, match="make room and run the command again"):
        pretrain_generator(TINY, tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.glob("checkpoint*")} == before != {}


def test_pretraining_by_another_recipe_is_not_continued(tmp_path):
    pretrain_generator(TINY, tmp_path)
    with pytest.raises(UsageError, match=r"other settings \(pictures, seed\); choose another folder"):
        pretrain_generator(replace(TINY, pictures=2 * TINY.pictures, seed=1), tmp_path)
    (tmp_path / "checkpoint.safetensors").write_bytes(b"half")
    with pytest.raises(CheckpointError, match="remove it to begin anew"):
        pretrain_generator(TINY, tmp_path)


def test_held_out_prompts_are_of_every_kind_and_not_trained_on(tmp_path):
    write_prompts(tmp_path, seed=0)
    train, held_out = ((tmp_path / name).read_text().splitlines() for name in (TRAIN_NAME, HELD_OUT_NAME))
    assert not set(train) & set(held_out)
    assert {parse_prompt(text).kind for text in held_out} == set(KINDS)
