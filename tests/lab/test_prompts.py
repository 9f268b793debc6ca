import numpy as np
import pytest

from rewarddance.lab.prompts import KINDS, is_in_domain, parse_prompt, sample_prompt


def test_every_drawn_prompt_is_read_back_as_it_was_meant() -> None:
    rng = np.random.default_rng(0)
    for kind in KINDS:
        for domain in ("in", "out"):
            prompt = sample_prompt(rng, domain, kind)
            assert parse_prompt(prompt.text) == prompt


def test_prompts_of_the_domain_ask_for_nothing_held_out() -> None:
    rng = np.random.default_rng(1)
    assert all(is_in_domain(sample_prompt(rng, "in")) for _ in range(300))


def test_prompts_out_of_the_domain_ask_for_something_held_out_where_their_kind_can() -> None:
    rng = np.random.default_rng(2)
    for kind in ("colour", "counting", "binding"):
        assert not any(is_in_domain(sample_prompt(rng, "out", kind)) for _ in range(50))


@pytest.mark.parametrize("text", ["", "a dog", "a red circle and", "five circles", "a red circle on a square"])
def test_text_outside_the_grammar_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a prompt of the lab's world"):
        parse_prompt(text)
