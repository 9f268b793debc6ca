import numpy as np
import pytest

from rewarddance.metrics.image_statistics import (
    clipped_share,
    colour_saturation,
    high_frequency_amplitude,
    image_statistics,
)


def chequerboard(side: int, cell: int) -> np.ndarray:
    rows, columns = np.indices((side, side)) // cell
    return ((rows + columns) % 2).astype(float)


def test_grey_has_no_colour_and_pure_red_has_all():
    pixels = np.zeros((2, 3, 4, 4))
    pixels[0], pixels[1, 0] = 0.5, 1.0
    assert colour_saturation(pixels).tolist() == [0.0, 1.0]


def test_a_chequerboard_of_pixels_is_all_high_frequency():
    # black and white about their mean of one half: root mean square 1/2
    assert high_frequency_amplitude(chequerboard(8, 1)[None]) == pytest.approx(0.5)


def test_a_slow_wave_holds_no_high_frequency():
    wave = np.sin(2 * np.pi * np.arange(16) / 8)[None, None].repeat(16, axis=1)
    assert high_frequency_amplitude(wave) == pytest.approx(0.0, abs=1e-12)


def test_high_frequency_is_what_filtering_leaves():
    # Parseval: the same as the root mean square of the picture with its low frequencies taken out
    grey = np.random.default_rng(0).random((12, 10))
    high = np.maximum(np.abs(np.fft.fftfreq(12))[:, None], np.abs(np.fft.fftfreq(10))[None]) > 0.25
    left = np.fft.ifft2(np.fft.fft2(grey) * high).real
    assert high_frequency_amplitude(grey[None])[0] == pytest.approx(np.sqrt((left**2).mean()))


def test_values_at_either_end_are_clipped():
    pixels = np.full((1, 3, 2, 2), 0.5)
    pixels[0, 0, 0], pixels[0, 1, 0] = 0.0, 1.0  # 4 of 12 values
    assert clipped_share(pixels).tolist() == [pytest.approx(1 / 3)]


def test_brightness_and_contrast_are_mean_and_spread_of_luminance():
    pixels = np.broadcast_to(chequerboard(4, 2), (1, 3, 4, 4))  # half black, half white
    statistics = image_statistics(pixels)
    assert (statistics["brightness"][0], statistics["contrast"][0]) == pytest.approx((0.5, 0.5))
