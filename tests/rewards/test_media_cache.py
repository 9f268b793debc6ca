import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from rewarddance.core.errors import MediaError
from rewarddance.core.types import Media
from rewarddance.rewards.backbones.protocol import Backbone
from rewarddance.rewards.media_cache import MediaCache
from tests.rewards.conftest import NewModel

YESTERDAY = 1_000_000_000 * 10**9  # nanoseconds of a clock


@pytest.fixture
def backbone(new_model: NewModel) -> Backbone:
    return new_model("pairwise").backbone


def write(path: Path, colour: str, time: int = YESTERDAY) -> Path:
    Image.new("RGB", (40, 40), colour).save(path)
    os.utime(path, ns=(time, time))
    return path


def test_a_file_that_has_not_changed_is_not_decoded_again_in_a_later_call(backbone: Backbone, tmp_path: Path):
    path = write(tmp_path / "a.png", "red")
    before, after = (MediaCache(backbone, frames_per_clip=8).get(Media(path)) for _ in range(2))
    assert before.pictures[0] is after.pictures[0]


def test_a_file_that_has_changed_is_decoded_again(backbone: Backbone, tmp_path: Path):
    before = MediaCache(backbone, frames_per_clip=8).get(write(tmp_path / "a.png", "red"))
    after = MediaCache(backbone, frames_per_clip=8).get(write(tmp_path / "a.png", "blue", YESTERDAY + 1))
    assert not torch.equal(before.pictures[0].pixel_values, after.pictures[0].pixel_values)


def test_a_file_that_was_written_just_now_is_not_kept(backbone: Backbone, tmp_path: Path):
    path = tmp_path / "a.png"
    Image.new("RGB", (40, 40), "red").save(path)
    before, after = (MediaCache(backbone, frames_per_clip=8).get(path) for _ in range(2))
    assert before.pictures[0] is not after.pictures[0]


def test_another_resolution_prepares_the_file_anew(new_model: NewModel, tmp_path: Path):
    backbone, path = new_model("pairwise").backbone, write(tmp_path / "a.png", "red")
    before = MediaCache(backbone, frames_per_clip=8).get(path)
    backbone.set_image_limits(None, 10**6)
    after = MediaCache(backbone, frames_per_clip=8).get(path)
    assert before.pictures[0] is not after.pictures[0]


def test_a_file_that_was_removed_is_missing_although_it_was_kept(backbone: Backbone, tmp_path: Path):
    path = write(tmp_path / "a.png", "red")
    MediaCache(backbone, frames_per_clip=8).get(path)
    path.unlink()
    with pytest.raises(MediaError, match="no such file"):
        MediaCache(backbone, frames_per_clip=8).get(path)


def test_a_clip_of_one_picture_stays_a_clip_when_it_is_kept(backbone: Backbone, tmp_path: Path):
    path = write(tmp_path / "a.png", "red")
    kinds = [MediaCache(backbone, 8).get(Media(path, kind)).is_clip for kind in ("clip", "image", "clip", "image")]
    assert kinds == [True, False, True, False]


def test_copies_of_a_picture_are_one_medium_within_a_call(backbone: Backbone, tmp_path: Path):
    cache = MediaCache(backbone, frames_per_clip=8)
    red, copy, blue = (
        cache.get(write(tmp_path / name, colour))
        for name, colour in (("a.png", "red"), ("b.png", "red"), ("c.png", "blue"))
    )
    assert red.key == copy.key != blue.key
    assert red.pictures is copy.pictures


def test_pictures_that_differ_in_one_place_are_two_media(backbone: Backbone):
    image = Image.new("RGB", (40, 40), "red")
    changed = image.copy()
    changed.putpixel((23, 17), (0, 255, 255))
    cache = MediaCache(backbone, frames_per_clip=8)
    assert cache.get(image).key != cache.get(changed).key


def test_a_copy_of_a_picture_that_was_let_go_stands_for_itself(backbone: Backbone, tmp_path: Path):
    cache = MediaCache(backbone, frames_per_clip=8, capacity=1)
    for name, colour in (("a.png", "red"), ("b.png", "blue"), ("c.png", "red")):
        assert cache.get(write(tmp_path / name, colour)).key.endswith(name)
