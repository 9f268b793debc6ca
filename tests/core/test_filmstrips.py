import numpy as np
from PIL import Image

from rewarddance.core.filmstrips import filmstrip


def test_frames_stand_beside_each_other_in_the_order_of_time():
    frames = [Image.new("RGB", (3, 2), (level, 0, 0)) for level in (10, 20, 30)]
    strip = np.asarray(filmstrip(frames))
    # three frames of three pixels, and two white ones between
    assert strip[0, :, 0].tolist() == [10] * 3 + [255] * 2 + [20] * 3 + [255] * 2 + [30] * 3
    assert strip.shape == (2, 13, 3)


def test_a_single_frame_is_itself():
    frame = Image.new("RGB", (3, 2), (10, 20, 30))
    assert np.array_equal(np.asarray(filmstrip([frame])), np.asarray(frame))
