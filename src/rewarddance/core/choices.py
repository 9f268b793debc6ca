"""Options that are one of a few words."""

from collections.abc import Collection

from rewarddance.core.errors import UsageError


def require_choice(what: str, value: str, choices: Collection[str]) -> None:
    """Stop at a word that is not among the choices, and would be taken for one of them.

    Args:
        what: What is chosen, in the words of a message.
        value: The word given.
        choices: Every word that means something.

    Raises:
        UsageError: It is none of them.
    """
    if value not in choices:
        raise UsageError(f"there is no {what} {value!r}; choose one of {', '.join(choices)}")
