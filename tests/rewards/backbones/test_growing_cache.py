"""The cache of a continuation against transformers' own, and rows that are taken out of it."""

import torch
from transformers import DynamicCache

from rewarddance.rewards.backbones.growing_cache import GrowingCache, GrowingLayer

LAYERS, ROWS = 2, 5


def states(length: int, seed: int, rows: int = ROWS) -> torch.Tensor:
    return torch.randn(rows, 3, length, 4, generator=torch.Generator().manual_seed(seed + 1000))


def test_a_hundred_tokens_one_by_one_are_those_of_a_dynamic_cache() -> None:
    ours, theirs = GrowingCache(), DynamicCache()
    for step, length in enumerate([7, *[1] * 100, 30]):
        for layer in range(LAYERS):
            keys, values = states(length, step * LAYERS + layer), states(length, -1 - step * LAYERS - layer)
            for got, expected in zip(ours.update(keys, values, layer), theirs.update(keys, values, layer), strict=True):
                assert torch.equal(got, expected)
    assert ours.get_seq_length() == 137


def test_tokens_behind_do_not_copy_what_is_there() -> None:
    layer = GrowingLayer()
    layer.update(states(7, 0), states(7, 1))
    layer.update(states(1, 2), states(1, 3))
    before = layer.keys.data_ptr()
    for step in range(60):
        layer.update(states(1, step), states(1, step))
    assert layer.keys.data_ptr() == before


def test_rows_that_are_taken_out_and_those_that_stay_go_on_by_themselves() -> None:
    whole = GrowingCache()
    whole.update(states(7, 0), states(7, 1), 0)
    whole.update(states(1, 2), states(1, 3), 0)
    apart = whole.split_off(torch.tensor([1, 4]), torch.tensor([0, 2, 3]))
    left = apart.update(states(2, 4, rows=2), states(2, 5, rows=2), 0)
    stayed = whole.update(states(2, 6, rows=3), states(2, 7, rows=3), 0)
    known = torch.cat([states(7, 0), states(1, 2)], dim=2)
    assert torch.equal(left[0], torch.cat([known[[1, 4]], states(2, 4, rows=2)], dim=2))
    assert torch.equal(stayed[0], torch.cat([known[[0, 2, 3]], states(2, 6, rows=3)], dim=2))


def test_repeated_rows_do_not_write_into_each_other() -> None:
    cache = GrowingCache()
    cache.update(states(7, 0), states(7, 1), 0)
    cache.update(states(1, 2), states(1, 3), 0)
    cache.batch_repeat_interleave(2)
    added = states(1, 4, rows=2 * ROWS)
    keys, _ = cache.update(added, added, 0)
    known = torch.cat([states(7, 0), states(1, 2)], dim=2).repeat_interleave(2, dim=0)
    assert torch.equal(keys, torch.cat([known, added], dim=2))
