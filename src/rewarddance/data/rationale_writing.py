"""Comparisons with their rationales, written as a folder of comparisons of its own."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from rewarddance.core.types import Comparison
from rewarddance.data.comparisons import ComparisonSet, write_comparisons
from rewarddance.data.records import ComparisonRecord


def write_with_rationales(
    comparisons: ComparisonSet, rationales: Mapping[str, str], folder: Path, *, only_with_rationale: bool = False
) -> int:
    """Write comparisons anew, in their order, each with its rationale if it has one here.

    Args:
        comparisons: All of a folder, or some.
        rationales: By comparison id. They are all that is written: a rationale that was there already is left out.
        folder: Where they go; media stay where they are.
        only_with_rationale: Leave out the others.

    Returns:
        Number of comparisons written.

    Raises:
        DataError: There is nothing to write.
    """
    splits = {record.id: record.split for record in comparisons.records()}

    def records() -> Iterator[ComparisonRecord]:
        for comparison in comparisons:
            rationale = rationales.get(comparison.id)
            if rationale is not None or not only_with_rationale:
                yield _record(comparison, splits, rationale)

    return write_comparisons(folder, records())


def _record(comparison: Comparison, splits: Mapping[str, str | None], rationale: str | None) -> ComparisonRecord:
    """One pair as a record. A pair of a larger record stands alone now, because a rationale is about two media."""
    whole = comparison.id.rpartition("#")[0]
    return ComparisonRecord(
        id=comparison.id,
        prompt=comparison.prompt,
        candidates=(comparison.first, comparison.second),
        choice=comparison.choice,
        second_preference=comparison.second_preference,
        dimensions=comparison.dimensions,
        instruction=comparison.instruction,
        source_media=comparison.source_media,
        confidence=comparison.confidence,
        weight=comparison.weight,
        group_id=comparison.group_id,
        split=splits[comparison.id] if comparison.id in splits else splits.get(whole),
        source=comparison.source,
        origin=comparison.origin,
        rationale=rationale,
    )
