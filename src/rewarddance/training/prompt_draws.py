"""Which prompt and which noise every picture of a run is made from: a function of the seed and the place alone.

A resumed run finds the same without storing anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rewarddance.core.seeding import derive_seed, numpy_rng


@dataclass(frozen=True, slots=True)
class Draw:
    """What one batch of pictures is made from.

    Attributes:
        prompts: One a picture.
        seeds: Of the noise, one a picture.
        group_seeds: Of its group's noise, one a picture: the seed of the group's first.
    """

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    group_seeds: tuple[int, ...]


class PromptDraws:
    """Prompts in a new order every time all of them have been seen.

    Attributes:
        prompts: What there is to draw from.
    """

    def __init__(self, seed: int, prompts: Sequence[str], batch_size: int) -> None:
        """Remember what there is; nothing is drawn yet."""
        self.prompts = tuple(prompts)
        self._seed = seed
        self._batch_size = batch_size

    def draws(self, first_batch: int, batches: int, group_size: int = 1) -> tuple[Draw, ...]:
        """Consecutive batches.

        Args:
            first_batch: How many batches the run has used before.
            batches: How many are wanted; their pictures are whole groups.
            group_size: Consecutive pictures that share a prompt.
        """
        start, count = first_batch * self._batch_size, batches * self._batch_size
        asked = [self._prompt((start + place) // group_size) for place in range(count)]
        seeds = [derive_seed(self._seed, "noise", start + place) for place in range(count)]
        firsts = [seeds[place - place % group_size] for place in range(count)]
        cuts = [slice(first, first + self._batch_size) for first in range(0, count, self._batch_size)]
        return tuple(Draw(tuple(asked[cut]), tuple(seeds[cut]), tuple(firsts[cut])) for cut in cuts)

    def drawn(self, first_batch: int, batches: int, group_size: int = 1) -> tuple[str, ...]:
        """The prompts of consecutive batches, each once, in the order in which they come; arguments as in `draws`."""
        start, count = first_batch * self._batch_size, batches * self._batch_size
        number, end = start // group_size, -(-(start + count) // group_size)
        found: dict[str, None] = {}
        while number < end and len(found) < len(self.prompts):
            epoch, place = divmod(number, len(self.prompts))
            order = self._order(epoch)[place : place + end - number]
            found |= dict.fromkeys(self.prompts[one] for one in order)
            number += len(order)
        return tuple(found)

    def _prompt(self, number: int) -> str:
        epoch, place = divmod(number, len(self.prompts))
        return self.prompts[self._order(epoch)[place]]

    def _order(self, epoch: int) -> list[int]:
        """Places of the prompts as they come when all have been seen so many times."""
        order: list[int] = numpy_rng(self._seed, "prompts", epoch).permutation(len(self.prompts)).tolist()
        return order
