from dataclasses import dataclass

import pytest
from pydantic import TypeAdapter

from rewarddance.core.stored_values import flaw


@dataclass(frozen=True)
class Inner:
    share: float


@dataclass(frozen=True)
class Outer:
    name: str
    parts: tuple[Inner, ...]


SHAPE = TypeAdapter(Outer)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"name": "a", "parts": [{"share": 1}]}, None),
        ({"name": "\ud800", "parts": [{"share": None}]}, None),
        ({"parts": []}, "has no name"),
        ({"name": "a", "parts": [{"share": 1}, {}]}, "has no parts.1.share"),
        ({"name": "a", "parts": 3}, "has no usable parts"),
        ([], "does not hold named values"),
    ],
)
def test_the_first_thing_that_is_missing_is_named_with_its_place(value: object, said: str | None):
    assert flaw(SHAPE.validate_python, value) == said
