"""Which comparison is shown when, and in which order of its two media: a function of seed and position alone.

The run is one endless stream: every epoch is a fresh permutation, and the epochs stand behind each other. A
micro-batch is a stretch of that stream. So every batch is full, nothing is dropped at the end of an epoch, and a
resumed run needs to know only how many optimizer steps it has made.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from rewarddance.core.seeding import numpy_rng
from rewarddance.core.types import Comparison

Orders = Literal["both", "random", "as_stored"]
"""Each comparison shown in both orders, in one drawn anew every epoch, or as it is stored."""

_EPOCHS_KEPT = 4


@dataclass(frozen=True, slots=True)
class DataOrder:
    """The stream of comparisons of one run.

    Attributes:
        seed: The run's seed.
        length: Number of comparisons to learn from.
        batch_size: Comparisons of one micro-batch, over all processes together.
        orders: How the two media are shown.
    """

    seed: int
    length: int
    batch_size: int
    orders: Orders

    def rows(self) -> int:
        """Comparisons as the model sees them in one micro-batch: twice the batch size when both orders are shown."""
        return self.batch_size * (2 if self.orders == "both" else 1)

    def shown(self, micro_batch: int) -> list["Shown"]:
        """The rows of a micro-batch, counted from the start of the run; both orders stand next to each other."""
        rows: list[Shown] = []
        for position in range(micro_batch * self.batch_size, (micro_batch + 1) * self.batch_size):
            epoch, offset = divmod(position, self.length)
            index = int(_permutation(self.seed, epoch, self.length)[offset])
            if self.orders == "random":
                rows.append(Shown(index, bool(_swaps(self.seed, epoch, self.length)[offset])))
            else:
                rows.append(Shown(index, False))
            if self.orders == "both":
                rows.append(Shown(index, True))
        return rows


@dataclass(frozen=True, slots=True)
class Shown:
    """One row of a batch.

    Attributes:
        index: Position of the comparison in the data.
        is_swapped: Whether its two media are shown the other way round.
    """

    index: int
    is_swapped: bool

    def of(self, comparison: Comparison) -> Comparison:
        """The comparison in the order shown."""
        return comparison.swapped() if self.is_swapped else comparison


@lru_cache(maxsize=_EPOCHS_KEPT)
def _permutation(seed: int, epoch: int, length: int) -> npt.NDArray[np.int64]:
    return numpy_rng(seed, "data_order", epoch).permutation(length)


@lru_cache(maxsize=_EPOCHS_KEPT)
def _swaps(seed: int, epoch: int, length: int) -> npt.NDArray[np.bool_]:
    return numpy_rng(seed, "shown_order", epoch).random(length) < 0.5
