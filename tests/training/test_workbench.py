import pytest

from rewarddance.config.alignment import SamplingConfig
from rewarddance.generators.protocol import ImageSize
from rewarddance.training.workbench import sampled_size

OWN = ImageSize(480, 832, 81)


@pytest.mark.parametrize(
    ("asked", "size"),
    [
        ({}, None),
        ({"frames": 5}, ImageSize(480, 832, 5)),
        ({"height": 32, "width": 48}, ImageSize(32, 48, 81)),
        ({"height": 32, "width": 48, "frames": 5}, ImageSize(32, 48, 5)),
    ],
)
def test_what_a_config_leaves_out_of_a_size_is_the_generators_own(asked: dict[str, int], size: ImageSize | None):
    assert sampled_size(SamplingConfig(**asked), OWN) == size


def test_a_size_of_pictures_has_no_frames():
    assert sampled_size(SamplingConfig(height=32, width=48), ImageSize(1024, 1024)) == ImageSize(32, 48)
