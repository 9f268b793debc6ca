"""Do train and test share anything? And a split by prompt, so that they do not.

An accuracy is worth nothing when the test prompts or the test images were trained on. Prompts are compared after
normalising case, spacing and final punctuation; media by the hash of their bytes, because names say nothing.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rewarddance.core.errors import DataError
from rewarddance.core.files import sha256_of, write_json_atomic
from rewarddance.core.seeding import derive_seed
from rewarddance.core.types import Media
from rewarddance.data.comparisons import ComparisonSet
from rewarddance.data.records import ComparisonRecord

_SEED_RANGE = 2**63


@dataclass(frozen=True, slots=True)
class SharedPrompt:
    """A prompt on both sides, with the ids of its records."""

    prompt: str
    train_ids: tuple[str, ...]
    test_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SharedMedia:
    """One medium on both sides, perhaps under two names."""

    sha256: str
    train_path: str
    test_path: str


@dataclass(frozen=True, slots=True)
class SplitReport:
    """What train and test share.

    Attributes:
        train_prompts: Distinct normalised prompts in train.
        test_prompts: Distinct normalised prompts in test.
        train_media: Distinct media in train, by content.
        test_media: Distinct media in test, by content.
        shared_prompts: Prompts on both sides.
        shared_media: Media on both sides.
        affected_test_records: Test records that touch anything shared.
        test_records: All test records.
        unreadable: Media that are not there and could not be compared.
    """

    train_prompts: int
    test_prompts: int
    train_media: int
    test_media: int
    shared_prompts: tuple[SharedPrompt, ...]
    shared_media: tuple[SharedMedia, ...]
    affected_test_records: int
    test_records: int
    unreadable: tuple[str, ...] = ()

    @property
    def is_clean(self) -> bool:
        """Nothing is shared, and everything could be compared."""
        return not (self.shared_prompts or self.shared_media or self.unreadable)

    def to_json(self) -> dict[str, object]:
        """The report for a file, `is_clean` included."""
        return {"is_clean": self.is_clean, **asdict(self)}

    def write(self, path: Path) -> None:
        """Write the report as JSON."""
        write_json_atomic(path, self.to_json())


@dataclass(frozen=True, slots=True)
class _Contents:
    prompts: dict[str, list[str]]
    media: dict[str, str]
    hashes_of: dict[str, frozenset[str]]
    prompt_of: dict[str, str]
    unreadable: tuple[str, ...]


def check_split(train: ComparisonSet, test: ComparisonSet) -> SplitReport:
    """Compare two sets, or two selections of one.

    Args:
        train: What is trained on.
        test: What is measured on. Media whose hash is not stored are read from disk, on both sides.
    """
    left, right = _contents_of(train), _contents_of(test)
    prompts = sorted(left.prompts.keys() & right.prompts.keys())
    media = sorted(left.media.keys() & right.media.keys())
    affected = [
        record
        for record, prompt in right.prompt_of.items()
        if prompt in left.prompts or not right.hashes_of[record].isdisjoint(left.media)
    ]
    return SplitReport(
        train_prompts=len(left.prompts),
        test_prompts=len(right.prompts),
        train_media=len(left.media),
        test_media=len(right.media),
        shared_prompts=tuple(
            SharedPrompt(prompt, tuple(left.prompts[prompt]), tuple(right.prompts[prompt])) for prompt in prompts
        ),
        shared_media=tuple(SharedMedia(digest, left.media[digest], right.media[digest]) for digest in media),
        affected_test_records=len(affected),
        test_records=len(right.prompt_of),
        unreadable=(*left.unreadable, *right.unreadable),
    )


def normalise_prompt(prompt: str) -> str:
    """One form for all spellings of a prompt: Unicode form, case, spacing and final punctuation are dropped."""
    folded = unicodedata.normalize("NFKC", prompt).casefold()
    return re.sub(r"\s+", " ", folded).strip().rstrip(".,;:!? ")


def split_of_prompt(prompt: str, shares: Mapping[str, float], seed: int = 0) -> str:
    """The split of a prompt, the same wherever and whenever it is asked; spellings of one prompt stay together.

    Args:
        prompt: The text.
        shares: Share of each split, in order, such as `{"train": 0.9, "test": 0.1}`; they add up to 1.
        seed: Another seed gives another split.

    Raises:
        DataError: The shares do not add up to 1.
    """
    if abs(sum(shares.values()) - 1.0) > 1e-9 or any(share < 0 for share in shares.values()):
        raise DataError(f"shares of splits add up to 1, not {dict(shares)}")
    position = derive_seed(seed, "split", normalise_prompt(prompt)) / _SEED_RANGE
    for name, share in shares.items():
        position -= share
        if position < 0:
            return name
    return next(reversed(list(shares)))


def assign_splits(
    records: Iterable[ComparisonRecord], shares: Mapping[str, float], seed: int = 0
) -> Iterator[ComparisonRecord]:
    """The records with the split of their prompt; see `split_of_prompt`."""
    for record in records:
        yield replace(record, split=split_of_prompt(record.prompt, shares, seed))


def _contents_of(comparisons: ComparisonSet) -> _Contents:
    contents = _Contents({}, {}, {}, {}, ())
    digests: dict[Path, str | None] = {}
    for record in comparisons.records():
        prompt = normalise_prompt(record.prompt)
        contents.prompts.setdefault(prompt, []).append(record.id)
        contents.prompt_of[record.id] = prompt
        found = []
        for media in (*record.candidates, *([record.source_media] if record.source_media else [])):
            if media.path not in digests:
                digests[media.path] = _digest_of(media)
            digest = digests[media.path]
            if digest is not None:
                contents.media.setdefault(digest, str(media.path))
                found.append(digest)
        contents.hashes_of[record.id] = frozenset(found)
    return replace(contents, unreadable=tuple(sorted(str(path) for path, digest in digests.items() if digest is None)))


def _digest_of(media: Media) -> str | None:
    if media.sha256 is not None:
        return media.sha256
    try:
        return sha256_of(media.path)
    except OSError:
        return None
