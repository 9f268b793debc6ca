"""What the project talks about: media, comparisons, requests, judgements. Plain frozen values, no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from rewarddance.core.rationale_text import rationale_when_swapped

if TYPE_CHECKING:
    from PIL.Image import Image

Choice = Literal["first", "second", "tie"]
"""Which of the two media, in the order shown, is preferred."""

MediaKind = Literal["image", "clip"]

AnyMedia: TypeAlias = "Media | Path | str | bytes | Image"
"""One image or clip in any form in which it can be given."""

_SWAPPED: Mapping[Choice, Choice] = {"first": "second", "second": "first", "tie": "tie"}
_SECOND_PREFERENCE: Mapping[Choice, float] = {"first": 0.0, "second": 1.0, "tie": 0.5}


@dataclass(frozen=True, slots=True)
class Media:
    """One image or clip on disk.

    Attributes:
        path: Where the file is; absolute once a data set has been opened.
        kind: An image, or a clip of several frames.
        generator: Name of the model that made it, if known.
        frames: Number of frames of a clip; None for an image or when unknown.
        fps: Frames per second of a clip; None for an image or when unknown.
        sha256: Hex digest of the file's bytes, if it was computed.
    """

    path: Path
    kind: MediaKind = "image"
    generator: str | None = None
    frames: int | None = None
    fps: float | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """A prompt and two media, perhaps judged.

    Attributes:
        id: Unique in its data set.
        prompt: The text that asked for the media.
        first: Medium shown first (image 1).
        second: Medium shown second (image 2).
        choice: The overall judgement; None when the comparison is not judged.
        second_preference: Soft label, the share of judges in [0, 1] that prefer `second`; None when only
            `choice` is known.
        dimensions: Choices per dimension, such as `{"structure": "first"}`.
        instruction: Name of the criteria that the judges were given, or the path of a file with them; None for the
            model's own.
        source_media: What an edit or an image-to-video prompt starts from.
        confidence: The data set's own confidence in the choice, in [0, 1].
        weight: How much the comparison counts in training; 1 unless the data set says otherwise.
        group_id: Comparisons of one group (one prompt's media) are not independent.
        source: Name of the data set.
        origin: Row id in the published file, to trace a record back.
        beside_first: Further media shown on the side of `first`, when one is judged against several together.
        beside_second: The same on the side of `second`.
        rationale: Reasons for the choice; calls the media image 1 and image 2 in the order shown.
    """

    id: str
    prompt: str
    first: Media
    second: Media
    choice: Choice | None = None
    second_preference: float | None = None
    dimensions: Mapping[str, Choice] = field(default_factory=dict)
    instruction: str | Path | None = None
    source_media: Media | None = None
    confidence: float | None = None
    weight: float = 1.0
    group_id: str | None = None
    source: str | None = None
    origin: str | None = None
    beside_first: tuple[Media, ...] = ()
    beside_second: tuple[Media, ...] = ()
    rationale: str | None = None

    def swapped(self) -> "Comparison":
        """The same judgement with the two media shown in the other order."""
        return replace(
            self,
            first=self.second,
            second=self.first,
            beside_first=self.beside_second,
            beside_second=self.beside_first,
            choice=None if self.choice is None else _SWAPPED[self.choice],
            second_preference=None if self.second_preference is None else 1.0 - self.second_preference,
            dimensions={name: _SWAPPED[choice] for name, choice in self.dimensions.items()},
            rationale=rationale_when_swapped(self.rationale),
        )

    @property
    def target(self) -> float | None:
        """Preference for `second` in [0, 1]: the soft label, else 0, 1 or (tie) 0.5; None when not judged."""
        if self.second_preference is not None:
            return self.second_preference
        return None if self.choice is None else _SECOND_PREFERENCE[self.choice]


@dataclass(frozen=True, slots=True)
class JudgementRequest:
    """One question to a reward model: how good is `candidate` for `prompt`, against `reference_image`?

    Attributes:
        prompt: The text that asked for the media.
        candidate: What is judged; image 2 of the question.
        reference_image: What it is judged against; image 1 of the question. Several are shown in one question or in
            one question each, as the model's reference mode says. None for a model that needs none.
        instruction: Name of stored criteria, which never reads another file; or the `Path` of a file of the user's
            own, which only a trusted caller may give. None for the model's own.
        id: Free text that comes back with the judgement.
        source_media: What an edit or an image-to-video prompt starts from; shown before the others.
    """

    prompt: str
    candidate: AnyMedia
    reference_image: "AnyMedia | tuple[AnyMedia, ...] | list[AnyMedia] | None" = None
    instruction: str | Path | None = None
    id: str | None = None
    source_media: "AnyMedia | None" = None

    @property
    def reference_images(self) -> "tuple[AnyMedia, ...]":
        """What the candidate is judged against, in order; empty for none."""
        if self.reference_image is None:
            return ()
        if isinstance(self.reference_image, tuple | list):
            return tuple(self.reference_image)
        return (self.reference_image,)


class Status(StrEnum):
    """How a judgement ended. Only `OK` carries a score.

    `UNANSWERED` says nothing about the request: whoever was asked gave no reply, and a later one may. Every other
    failure would come again.
    """

    OK = "ok"
    UNREADABLE_MEDIA = "unreadable_media"
    TOO_LONG = "too_long"
    NON_FINITE = "non_finite"
    UNFINISHED_RATIONALE = "unfinished_rationale"
    UNANSWERED = "unanswered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class JudgementCost:
    """What an answer took; what several answers share is counted for each of them.

    Attributes:
        questions: Questions asked.
        read_tokens: Tokens that the model was given, images included.
        generated_tokens: Tokens that it wrote, one forward pass each: 0 when no rationale was asked for.
        unfinished_rationales: Rationales that did not end within the limit of tokens; nothing was read after them.
    """

    questions: int = 0
    read_tokens: int = 0
    generated_tokens: int = 0
    unfinished_rationales: int = 0

    def __add__(self, other: "JudgementCost") -> "JudgementCost":
        return JudgementCost(
            questions=self.questions + other.questions,
            read_tokens=self.read_tokens + other.read_tokens,
            generated_tokens=self.generated_tokens + other.generated_tokens,
            unfinished_rationales=self.unfinished_rationales + other.unfinished_rationales,
        )


@dataclass(frozen=True, slots=True)
class Judgement:
    """The answer to one request. A judgement that is not `ok` has no score and no reward.

    Attributes:
        status: How it ended.
        score: P(yes) / (P(yes) + P(no)) in [0, 1], shown to people; 0.5 means the model cannot tell.
        reward: Log-odds of yes, unbounded, used for optimisation; 0 means the model cannot tell.
        order_gap: |score(a vs b) - (1 - score(b vs a))| in [0, 1] when both orders were asked, else None.
        leaked_mass: Probability in [0, 1] that the model puts outside every spelling of yes and no.
        rationale: The model's reasoning, when it was asked for; of several, the first that ended.
        instruction: Name of the criteria that were used.
        instruction_sha256: Hex digest of their text: two judgements were asked for the same when these are equal.
        message: One line on what went wrong, when the status is not ok, or when a rationale is missing.
        id: The request's id.
        cost: What the answer took; None when the model was not asked.
    """

    status: Status
    score: float | None = None
    reward: float | None = None
    order_gap: float | None = None
    leaked_mass: float | None = None
    rationale: str | None = None
    instruction: str | None = None
    message: str | None = None
    id: str | None = None
    instruction_sha256: str | None = None
    cost: JudgementCost | None = None

    @property
    def is_ok(self) -> bool:
        """Whether the judgement carries a score."""
        return self.status is Status.OK


@dataclass(frozen=True, slots=True)
class Ranking:
    """Candidates of one prompt in order of quality.

    Attributes:
        order: Candidate indices, best first. Ties are broken by mean reward, then by index.
        wins: Win count of each candidate, ties counting one half; None where a candidate could not be judged.
        rewards: Mean log-odds of each candidate against the others; None where it could not be judged.
        judgements: Every judgement that the ranking stands on; none where a service keeps them.
        failed_judgements: Pairs without a result.
    """

    order: tuple[int, ...]
    wins: tuple[float | None, ...]
    rewards: tuple[float | None, ...]
    judgements: tuple[Judgement, ...]
    failed_judgements: int = 0
