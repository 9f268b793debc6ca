"""How different the pictures of one prompt are from each other, as distances between frozen features.

Source:
    Mean pairwise distance of features within a prompt, as GARDO (arXiv:2512.24138) and DreamBooth (arXiv:2208.12242,
    section 4.2, there with LPIPS) use it. Differs: any features; absolute distances are comparable only between
    evaluations with the same features.
"""

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

_COLOUR_CELLS = 8  # cells along a side for mean colours
_EDGE_CELLS = 4  # and for the energy of edges, which moves with an object more than colours do
_EDGE_WEIGHT = 2.0  # brings both parts to about the same length on drawn and on natural pictures


def within_prompt_distance(
    features: Float[ndarray, "pictures features"], prompts: Int[ndarray, " pictures"]
) -> Float[ndarray, " prompts"]:
    """Mean Euclidean distance between two pictures of a prompt.

    Args:
        features: Frozen features, one row a picture.
        prompts: Number of the prompt of each picture, from 0 without gaps.

    Returns:
        One figure a prompt, 0 when all of its pictures are the same; NaN for a prompt with a single picture.
    """
    return np.array([_mean_distance(features[prompts == prompt]) for prompt in range(int(prompts.max()) + 1)])


def colour_grid_features(pixels: Float[ndarray, "pictures 3 height width"]) -> Float[ndarray, "pictures features"]:
    """Features without a model: where which colours are, and where the edges are.

    They see layout, colour and texture, not meaning. Vision features (DINO, CLIP) are better where they can be had.

    Args:
        pixels: RGB in [0, 1].

    Returns:
        Mean colours on a grid of 8 by 8 cells and the root mean square of edges on 4 by 4, 208 numbers in all (fewer
        for pictures with fewer pixels than cells).
    """
    grey = pixels.mean(axis=1, keepdims=True)
    down = np.diff(grey, axis=2, append=grey[:, :, -1:])
    right = np.diff(grey, axis=3, append=grey[:, :, :, -1:])
    colours = _cell_means(pixels, _COLOUR_CELLS).reshape(len(pixels), -1) / _COLOUR_CELLS
    edges = np.sqrt(_cell_means(down**2 + right**2, _EDGE_CELLS)).reshape(len(pixels), -1) / _EDGE_CELLS
    return np.concatenate([colours, _EDGE_WEIGHT * edges], axis=1)


def _mean_distance(features: Float[ndarray, "pictures features"]) -> float:
    n = len(features)
    if n < 2:
        return float("nan")
    first, second = np.triu_indices(n, k=1)
    return float(np.linalg.norm(features[first] - features[second], axis=1).mean())


def _cell_means(
    pixels: Float[ndarray, "pictures channels height width"], cells: int
) -> Float[ndarray, "pictures channels rows columns"]:
    rows, columns = (_cell_starts(side, cells) for side in pixels.shape[2:])
    sums = np.add.reduceat(np.add.reduceat(pixels, rows, axis=2), columns, axis=3)
    heights, widths = np.diff(rows, append=pixels.shape[2]), np.diff(columns, append=pixels.shape[3])
    return np.asarray(sums / (heights[:, None] * widths))


def _cell_starts(side: int, cells: int) -> Int[ndarray, " cells"]:
    return np.unique(np.arange(cells) * side // cells)
