from rewarddance.training.run_plan import RunPlan


def test_the_last_step_is_full_even_if_the_epochs_end_inside_it():
    # 2 epochs of 10 are 20 comparisons: 3 steps of 8.
    assert RunPlan(length=10, comparisons_per_step=8, epochs=2).total_steps == 3


def test_without_an_interval_something_is_due_at_the_end_of_every_epoch():
    plan = RunPlan(length=10, comparisons_per_step=4, epochs=2)
    # Seen after each step: 4, 8, 12, 16, 20; epochs end at 10 and 20.
    assert [step for step in range(1, 6) if plan.is_due(step, None)] == [3, 5]


def test_with_an_interval_the_end_of_the_run_counts_too():
    plan = RunPlan(length=10, comparisons_per_step=2, epochs=1)
    assert [step for step in range(1, 6) if plan.is_due(step, 2)] == [2, 4, 5]


def test_a_step_larger_than_the_data_ends_an_epoch_every_time():
    plan = RunPlan(length=3, comparisons_per_step=8, epochs=4)
    assert [step for step in range(1, plan.total_steps + 1) if plan.is_due(step, None)] == [1, 2]
