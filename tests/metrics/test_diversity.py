import numpy as np
import pytest

from rewarddance.metrics.diversity import colour_grid_features, within_prompt_distance


def test_distance_is_the_mean_over_pairs_of_a_prompt():
    # prompt 0: sides 3, 4 and 5 of a triangle; prompt 1: one pair at distance 2
    features = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0], [1.0, 1.0], [1.0, 3.0]])
    assert within_prompt_distance(features, np.array([0, 0, 0, 1, 1])).tolist() == [4.0, 2.0]


def test_a_single_picture_has_no_distance():
    assert np.isnan(within_prompt_distance(np.zeros((3, 2)), np.array([0, 1, 1]))[0])


def test_equal_pictures_have_equal_features():
    picture = np.random.default_rng(0).random((1, 3, 16, 16))
    features = colour_grid_features(np.repeat(picture, 2, axis=0))
    assert within_prompt_distance(features, np.array([0, 0])).tolist() == [0.0]


def test_colour_and_place_both_make_pictures_differ():
    left, right, other = np.zeros((3, 3, 16, 16))
    left[0, 4:8, 2:6], right[0, 4:8, 10:14], other[1, 4:8, 2:6] = 1, 1, 1
    features = colour_grid_features(np.stack([left, right, other]))
    assert np.linalg.norm(features[0] - features[1]) > 0.1
    assert np.linalg.norm(features[0] - features[2]) > 0.1


@pytest.mark.parametrize(("size", "width"), [((32, 32), 208), ((17, 30), 208), ((5, 5), 5 * 5 * 3 + 4 * 4)])
def test_features_have_one_number_a_cell_and_channel(size, width):
    assert colour_grid_features(np.full((2, 3, *size), 0.5)).shape == (2, width)


def test_a_flat_picture_shows_its_colour_in_every_cell_and_no_edges():
    features = colour_grid_features(np.full((1, 3, 17, 30), 0.4))[0]
    assert features[:192] == pytest.approx(0.4 / 8)
    assert features[192:] == pytest.approx(0.0)
