import torch

from rewarddance.rewards.backbones.kept_pictures import KeptPictures
from rewarddance.rewards.backbones.protocol import Picture


def pictures(numbers: int) -> tuple[Picture, ...]:
    """One picture of so many float32 numbers, four bytes each."""
    return (Picture(torch.zeros(numbers), tokens=1, grid=(1, 1)),)


def test_what_was_not_used_for_longest_goes_when_the_bytes_are_full():
    kept = KeptPictures(max_bytes=40)
    for key in ("a", "b"):
        kept.keep(key, pictures(5))
    kept.get("a")
    kept.keep("c", pictures(5))
    assert [key for key in ("a", "b", "c") if kept.get(key) is not None] == ["a", "c"]


def test_what_is_larger_than_the_whole_drives_nothing_out():
    kept = KeptPictures(max_bytes=40)
    kept.keep("small", pictures(5))
    kept.keep("large", pictures(11))
    assert kept.get("small") is not None
    assert kept.get("large") is None


def test_keeping_the_same_again_does_not_count_twice():
    kept = KeptPictures(max_bytes=40)
    for key in ("a", "a", "a", "b"):
        kept.keep(key, pictures(5))
    assert kept.get("a") is not None
