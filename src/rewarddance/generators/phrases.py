"""Prompts of a small closed grammar as tensors: one row a phrase, one-hot words in it.

The grammar is data (`phrases.json` in a generator's folder): named slots with the words that fill them, words that
link two phrases, and words that carry nothing. A phrase begins with a word of the first slot.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from rewarddance.core.errors import ModelError, PromptError

NAME = "phrases.json"
_SHOWN_CHARACTERS = 80


@dataclass(frozen=True, slots=True)
class PhraseEncoder:
    """Reads prompts into one-hot phrases.

    Attributes:
        slots: By name, the values of a slot; each value has one or more spellings. The first slot opens a phrase.
        links: Words that say how the first phrase stands to the second.
        fillers: Words without meaning of their own.
        phrases: How many phrases a prompt may have.
    """

    slots: Mapping[str, tuple[tuple[str, ...], ...]]
    links: tuple[str, ...]
    fillers: tuple[str, ...]
    phrases: int

    @property
    def width(self) -> int:
        """Entries of one phrase: each slot's values and "left open", the links and "none", and the phrase's place."""
        return sum(len(values) + 1 for values in self.slots.values()) + len(self.links) + 1 + self.phrases

    def encode(self, prompts: Sequence[str]) -> Float[Tensor, "batch phrases width"]:
        """One-hot rows; a phrase that the prompt does not have is all zeros.

        Raises:
            PromptError: A word is not of the grammar, or a prompt has no phrase or too many.
        """
        return torch.tensor([self._rows(prompt) for prompt in prompts])

    def save(self, folder: Path) -> None:
        """Write the grammar beside the weights."""
        content = {"slots": self.slots, "links": self.links, "fillers": self.fillers, "phrases": self.phrases}
        (folder / NAME).write_text(json.dumps(content, indent=1), encoding="utf-8")

    def _rows(self, prompt: str) -> list[list[float]]:
        opening = next(iter(self.slots))
        found: list[dict[str, int]] = []
        link: int | None = None
        for word in prompt.lower().split():
            name, value = self._meaning(word, prompt)
            if name == opening:
                found.append({})
            if name == "link":
                link = value
            elif name is not None:
                if not found:
                    raise PromptError(f"the prompt {_shown(prompt)} does not begin with one of: {self._words(opening)}")
                found[-1][name] = value
        if not 1 <= len(found) <= self.phrases:
            raise PromptError(
                f"the prompt {_shown(prompt)} has {len(found)} phrases; this generator reads 1 to {self.phrases}"
            )
        empty = [[0.0] * self.width] * (self.phrases - len(found))
        return [self._row(phrase, link, place) for place, phrase in enumerate(found)] + empty

    def _meaning(self, word: str, prompt: str) -> tuple[str | None, int]:
        for name, values in self.slots.items():
            for place, spellings in enumerate(values):
                if word in spellings:
                    return name, place
        if word in self.links:
            return "link", self.links.index(word)
        if word in self.fillers:
            return None, 0
        known = ", ".join(self._words(name) for name in self.slots)
        raise PromptError(f"this generator does not know the word {_shown(word)} of {_shown(prompt)}; it knows {known}")

    def _row(self, phrase: Mapping[str, int], link: int | None, place: int) -> list[float]:
        row: list[float] = []
        for name, values in self.slots.items():
            row += _one_hot(phrase.get(name, len(values)), len(values) + 1)
        row += _one_hot(len(self.links) if link is None else link, len(self.links) + 1)
        return row + _one_hot(place, self.phrases)

    def _words(self, slot: str) -> str:
        return ", ".join(spellings[0] for spellings in self.slots[slot])


def read_phrases(folder: Path) -> PhraseEncoder:
    """Read a grammar.

    Raises:
        ModelError: It is missing or not one.
    """
    path = folder / NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        slots = {name: tuple(tuple(words) for words in values) for name, values in content["slots"].items()}
        return PhraseEncoder(slots, tuple(content["links"]), tuple(content["fillers"]), int(content["phrases"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} is not the grammar of a drawn generator ({error}); restore the folder") from None


def _shown(text: str) -> str:
    """A prompt, or its beginning, for a message of one line."""
    return repr(text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}...")


def _one_hot(place: int, length: int) -> list[float]:
    return [float(index == place) for index in range(length)]
