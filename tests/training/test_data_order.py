from collections import Counter

import pytest

from rewarddance.training.data_order import DataOrder, Shown


def stream(order, micro_batches):
    return [shown for number in range(micro_batches) for shown in order.shown(number)]


def test_every_comparison_is_shown_once_an_epoch_although_batches_run_over_its_end():
    order = DataOrder(seed=1, length=10, batch_size=4, orders="as_stored")
    # 5 batches of 4 are 2 epochs of 10.
    assert Counter(shown.index for shown in stream(order, 5)) == dict.fromkeys(range(10), 2)


def test_both_orders_of_a_comparison_stand_next_to_each_other():
    rows = DataOrder(seed=1, length=6, batch_size=3, orders="both").shown(1)
    assert [row.is_swapped for row in rows] == [False, True] * 3
    assert [row.index for row in rows[0::2]] == [row.index for row in rows[1::2]]


def test_a_random_order_swaps_about_half_and_not_the_same_half_every_epoch():
    order = DataOrder(seed=1, length=400, batch_size=400, orders="random")
    first, second = ({shown.index: shown.is_swapped for shown in order.shown(epoch)} for epoch in (0, 1))
    assert 160 < sum(first.values()) < 240
    assert 160 < sum(first[index] == second[index] for index in range(400)) < 240


@pytest.mark.parametrize("orders", ["both", "random", "as_stored"])
def test_a_batch_is_known_from_its_number_alone(orders):
    forwards = DataOrder(seed=3, length=11, batch_size=4, orders=orders)
    expected = [forwards.shown(number) for number in range(9)]
    assert DataOrder(seed=3, length=11, batch_size=4, orders=orders).shown(8) == expected[8]
    assert DataOrder(seed=4, length=11, batch_size=4, orders=orders).shown(8) != expected[8]


def test_epochs_have_different_orders():
    order = DataOrder(seed=1, length=20, batch_size=20, orders="as_stored")
    assert order.shown(0) != order.shown(1)


def test_a_row_says_what_is_shown():
    assert Shown(index=2, is_swapped=False) in DataOrder(1, 3, 3, "as_stored").shown(0)
