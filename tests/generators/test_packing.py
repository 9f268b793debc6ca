import torch

from rewarddance.generators.packing import pack, patch_positions, unpack


def test_a_patch_holds_two_by_two_latents_of_one_channel_after_the_other():
    # Channel 0 is 0..7 in two rows of four, channel 1 the same plus 10.
    channel = torch.arange(8.0).reshape(2, 4)
    packed = pack(torch.stack([channel, channel + 10])[None])
    assert packed[0].tolist() == [
        [0.0, 1.0, 4.0, 5.0, 10.0, 11.0, 14.0, 15.0],
        [2.0, 3.0, 6.0, 7.0, 12.0, 13.0, 16.0, 17.0],
    ]


def test_unpacking_is_the_inverse():
    latents = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(unpack(pack(latents), 4, 6), latents)


def test_positions_are_in_reading_order():
    positions = patch_positions(2, 3, torch.device("cpu"))
    assert positions.tolist() == [[0, row, column] for row in range(2) for column in range(3)]
