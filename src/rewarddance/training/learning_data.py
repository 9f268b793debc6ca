"""Which comparisons a run learns from and which it holds out."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rewarddance.config.training import TrainConfig
from rewarddance.core.errors import DataError
from rewarddance.core.seeding import numpy_rng
from rewarddance.core.types import Comparison
from rewarddance.data.comparisons import ComparisonSet
from rewarddance.data.reference_sets import with_reference_sets
from rewarddance.data.splits import split_of_prompt

_TIE = 0.5

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ChosenComparisons:
    """Some of a sequence of comparisons, which stay where they are: a large data set is not held in memory.

    Attributes:
        comparisons: All of them.
        indices: Which of them are meant, in order.
        sha256: Digest of the ids and targets of those, so that a resumed run can tell whether the data have changed.
    """

    comparisons: Sequence[Comparison]
    indices: tuple[int, ...]
    sha256: str

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> Comparison:
        return self.comparisons[self.indices[place]]


def comparisons_to_learn(config: TrainConfig, given: Sequence[Comparison] | None) -> ChosenComparisons:
    """Comparisons to learn from: those given by the caller, else those of the config's folder and split.

    They are judged, except that with a teacher those without a choice are learned from its answers alone.

    Raises:
        DataError: None is left.
    """
    data = config.data
    if given is None:
        given = ComparisonSet.open(data.train).select(split=data.train_split, dimension=data.dimension)
        if data.holds_out_prompts:
            given = _of_prompts(given, data.held_out_share, is_held_out=False)
    if data.reference_sets:
        given = with_reference_sets(given, data.reference_sets, config.seed)
    excluded: set[float | None] = {_TIE} if config.loss.ties == "drop" else set()
    if config.distillation is None:
        excluded.add(None)
    chosen = _chosen(given, lambda target: target not in excluded, data.max_comparisons, config.seed, "learned")
    if not chosen:
        raise DataError(f"{data.train} has no judged comparison to learn from; check data.train_split and dimension")
    return chosen


def comparisons_held_out(config: TrainConfig, given: Sequence[Comparison] | None) -> ChosenComparisons:
    """Comparisons with a preference (no ties) to measure accuracy on; empty when there are none.

    Raises:
        DataError: The split that is named has no comparisons.
    """
    data = config.data
    if given is None and data.holds_out_prompts:
        learned = ComparisonSet.open(data.train).select(split=data.train_split, dimension=data.dimension)
        given = _of_prompts(learned, data.held_out_share, is_held_out=True)
    elif given is None and data.evaluation is None and data.evaluation_split is None:
        given = ()
    elif given is None:
        stored = ComparisonSet.open(data.evaluation or data.train)
        given = stored.select(split=data.evaluation_split, dimension=data.dimension)
    count = config.evaluation_comparisons
    return _chosen(given, lambda target: target not in (None, _TIE), count, config.seed, "held_out")


def _of_prompts(comparisons: ComparisonSet, share: float, *, is_held_out: bool) -> Sequence[Comparison]:
    """The comparisons of the prompts that are held out, or of the others; the same in every run."""
    shares = {"held_out": share, "learned": 1 - share}
    wanted = "held_out" if is_held_out else "learned"
    return comparisons.where([split_of_prompt(prompt, shares) == wanted for prompt in comparisons.prompts()])


def _chosen(
    comparisons: Sequence[Comparison], accepts: Callable[[float | None], bool], count: int | None, seed: int, name: str
) -> ChosenComparisons:
    known = [(comparison.id, comparison.target) for comparison in comparisons]
    indices = [index for index, (_, target) in enumerate(known) if accepts(target)]
    if len(indices) < len(known):
        _log.info(
            "%s: %d of %d comparisons are left out (not judged, or ties)", name, len(known) - len(indices), len(known)
        )
    if count is not None and count < len(indices):
        places = numpy_rng(seed, name).permutation(len(indices))[:count]
        indices = [indices[place] for place in sorted(places.tolist())]
    digest = hashlib.sha256()
    for index in indices:
        digest.update(f"{known[index]}\n".encode())
    return ChosenComparisons(comparisons, tuple(indices), digest.hexdigest())
