"""Prompts that a generator cannot read, found before it is loaded."""

from collections.abc import Iterable
from pathlib import Path

from rewarddance.core.errors import PromptError
from rewarddance.generators.phrases import NAME, read_phrases


def refused_prompts(path_or_id: str | Path, prompts: Iterable[str]) -> dict[str, str]:
    """Why prompts cannot be read, by prompt.

    Args:
        path_or_id: The generator's folder. Only one with a grammar refuses any prompt; of others, nothing is read.
        prompts: To be checked.

    Raises:
        ModelError: The grammar cannot be read.
    """
    folder = Path(path_or_id).expanduser()
    if not (folder / NAME).is_file():
        return {}
    encoder = read_phrases(folder)
    refused: dict[str, str] = {}
    for prompt in prompts:
        try:
            encoder.encode([prompt])
        except PromptError as error:
            refused[prompt] = str(error)
    return refused
