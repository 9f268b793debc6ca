"""Whether a value that was read from a file has the shape that its reader needs."""

from collections.abc import Callable

from pydantic import ValidationError


def flaw(validate: Callable[[object], object], value: object) -> str | None:
    """What a value lacks, in words that follow the name of its file; None where it lacks nothing.

    Args:
        validate: `validate_python` of the shape's adapter. A figure that is not defined is null in files, and text may
            hold half of a surrogate pair: neither counts.
        value: As JSON has it.
    """
    try:
        validate(value)
    except ValidationError as error:
        for one in error.errors(include_url=False):
            is_undefined = one["type"] == "float_type" and one["input"] is None
            if is_undefined or one["type"] == "string_unicode":
                continue
            place = ".".join(str(part) for part in one["loc"])
            if not place:
                return "does not hold named values"
            return f"has no {place}" if one["type"] == "missing" else f"has no usable {place}"
    return None
