"""Reference images by tournament: the generator makes candidates of each prompt, and pairwise wins rank them.

Source:
    RewardDance, arXiv:2509.08826, section 3.3 and Table 8: best of N at most 16, the best two are kept.
    Differs: a full round robin in the model's own order mode; equal win counts are ordered by mean reward. The paper's
    references come from the untuned generator and stay; here the policy can make new ones on its way.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from rewarddance.core.errors import DataError, ModelError, PromptError, UsageError
from rewarddance.core.media import MediaSource
from rewarddance.core.seeding import derive_seed
from rewarddance.core.types import Judgement, Ranking
from rewarddance.data.prompts import PromptItem
from rewarddance.data.reference_writing import ReferenceWriter
from rewarddance.data.references import (
    FailedJudgement,
    Kept,
    PromptReferences,
    ReferenceCandidate,
    ReferenceStore,
    ReferenceSummary,
    finished_generations,
)
from rewarddance.generators.protocol import Generator, ImageSize, refuse_clips
from rewarddance.generators.sampling import generate as generate_pictures
from rewarddance.rewards.instructions import instruction_argument
from rewarddance.search.attendance import Attendance
from rewarddance.search.pictures import is_whole, picture_of, png_of

MOST_CANDIDATES = 16

Generate = Callable[[Sequence[str], Sequence[int]], Float[Tensor, "pictures 3 height width"]]
"""Makes one picture, float RGB in [0, 1], for each prompt and seed of initial noise."""

_BROKEN = "broken_picture"


@runtime_checkable
class Ranker(Protocol):
    """The part of a reward model that holds a tournament; see `RewardModel.rank`."""

    def rank(self, prompt: str, candidates: Sequence[MediaSource], instruction: str | Path | None = None) -> Ranking:
        """Candidates by pairwise win count."""


@dataclass(frozen=True, slots=True)
class TournamentSettings:
    """How references are made; everything here decides the result, and is stored.

    Attributes:
        generator: What identifies the generator and its weights.
        judge: What identifies the reward model.
        candidates: Pictures a prompt, 2 to 16.
        top: Best ones that are kept.
        bottom: Worst ones that are kept, for an ablation.
        seed: Decides the noise of every candidate.
        instruction: Name of stored criteria, or the path of a YAML file; None for the model's own.
        sampling: How pictures are made (denoising steps, guidance, size, ...), as JSON.
    """

    generator: str
    judge: str
    candidates: int = MOST_CANDIDATES
    top: int = 2
    bottom: int = 0
    seed: int = 0
    instruction: str | None = None
    sampling: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 2 <= self.candidates <= MOST_CANDIDATES:
            raise UsageError(f"a tournament has 2 to {MOST_CANDIDATES} candidates, not {self.candidates}")
        if self.top < 1 or self.bottom < 0 or self.top + self.bottom > self.candidates:
            raise UsageError(
                f"of {self.candidates} candidates, {self.top} best and {self.bottom} worst cannot be kept: "
                "keep at least the best one, and no candidate twice"
            )


def make_references(
    generate: Generate,
    model: Ranker,
    prompts: Sequence[PromptItem],
    folder: Path,
    settings: TournamentSettings,
    generation: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> ReferenceSummary:
    """Hold the tournament of every prompt that has none yet, or one without some answers, storing each as it ends.

    Args:
        generate: Makes candidates.
        model: Judges them.
        prompts: At least one; equal texts are one prompt.
        folder: Of the references; continued if it exists.
        settings: What decides the result.
        generation: 0 before alignment; later ones for a policy on its way.
        on_progress: Called with the number of prompts that are done.

    Raises:
        UsageError: The generation was begun with other settings, or another process makes it.
        ModelError: The judge answers no more; of the prompt at hand, nothing is stored.
    """
    writer = ReferenceWriter(folder, asdict(settings), generation)
    with writer.alone():
        attendance = Attendance(has_answered=writer.has_answers)
        missing = writer.missing(prompts)
        distinct = len({item.prompt for item in prompts})
        for done, item in enumerate(missing, start=distinct - len(missing)):
            _report(on_progress, done)
            try:
                references, images = hold_tournament(generate, model, item, settings, generation, attendance)
            except ModelError:
                writer.set_back(item.prompt)
                raise
            writer.add(references, images)
        _report(on_progress, distinct)
        return writer.finish(prompts, resumed=distinct - len(missing))


def reference_refresher(
    model: Ranker,
    prompts: Sequence[PromptItem],
    folder: Path,
    settings: TournamentSettings,
    pictures: Callable[[Generator], Generate],
) -> Callable[[Generator, int, Sequence[str]], ReferenceStore]:
    """What a trainer calls to have references made by the policy as it is now.

    Args:
        model: Judges the candidates.
        prompts: Those of the training, of which some are asked for.
        folder: Of this run alone: the generations of two runs must not meet.
        settings: As for the first references; `generator` names the one that the run began with.
        pictures: Turns the policy into a function that makes pictures; see `pictures_of`.

    Returns:
        A function of the policy, of the optimizer step, which numbers the generation, and of the prompts that need
        references. Called again for a step, as by a run that was killed and resumed, it goes on with what is there, or
        reads it when it is finished. It raises `ModelError` while judgements have no answer, and `DataError` where
        pictures of a finished generation are gone or changed: a later policy must not make up for either.
    """
    items = {item.prompt: item for item in prompts}

    def refresh(generator: Generator, optimizer_step: int, asked: Sequence[str]) -> ReferenceStore:
        label = f"{settings.generator}, tuned for {optimizer_step} optimizer steps"
        own = replace(settings, generator=label)
        if optimizer_step in finished_generations(folder):
            _refuse_other_pictures(ReferenceStore.open(folder, optimizer_step))
        chosen = [items[prompt] for prompt in asked]
        made = make_references(pictures(generator), model, chosen, folder, own, optimizer_step)
        if made.unanswered:
            raise ModelError(
                f"the judge of new reference images gave no answer for {len(made.unanswered)} of {made.prompts} "
                "prompts; resume the run to ask it again for those"
            )
        return ReferenceStore.open(folder, optimizer_step)

    return refresh


def _refuse_other_pictures(store: ReferenceStore) -> None:
    if changed := store.changed_pictures():
        raise DataError(
            f"{changed[0]} is no longer the picture that the policy made at optimizer step {store.generation} "
            "(its sha256 differs); put it back, or begin the run anew in another folder"
        )


def pictures_of(
    generator: Generator,
    size: ImageSize | None = None,
    denoising_steps: int | None = None,
    guidance: float | None = None,
    batch_size: int = 8,
) -> Generate:
    """A generator as the function that makes candidates; see `generators.sampling.generate` for the settings.

    Raises:
        UsageError: The generator makes clips.
    """
    refuse_clips(generator, "a tournament of reference images")

    def make(prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        return generate_pictures(generator, prompts, seeds, size, denoising_steps, guidance, batch_size)

    return make


def hold_tournament(
    generate: Generate,
    model: Ranker,
    item: PromptItem,
    settings: TournamentSettings,
    generation: int = 0,
    attendance: Attendance | None = None,
) -> tuple[PromptReferences, dict[int, bytes]]:
    """Rank one prompt's candidates.

    Args:
        generate: Makes candidates.
        model: Judges them.
        item: The prompt.
        settings: What decides the result.
        generation: Part of the candidates' seeds.
        attendance: Notices a judge that has gone; None for one tournament alone.

    Returns:
        The result, and the PNG files of the candidates that are kept, by seed. What is judged is what is stored:
        8-bit pictures.

    Raises:
        ModelError: The judge has gone.
    """
    seeds = candidate_seeds(item.prompt, settings, generation)
    try:
        pixels = generate([item.prompt] * len(seeds), seeds)
    except PromptError as error:
        return PromptReferences(item.id, item.prompt, (), problem=str(error)), {}
    if len(pixels) != len(seeds):
        raise UsageError(f"the generator made {len(pixels)} pictures for {len(seeds)} seeds")
    whole = [index for index, picture in enumerate(pixels) if is_whole(picture)]
    pictures = {seeds[index]: picture_of(pixels[index]) for index in whole}
    own = [seeds[index] for index in whole]
    named = None if settings.instruction is None else instruction_argument(settings.instruction)
    ranking = model.rank(item.prompt, list(pictures.values()), named)
    if attendance is not None:
        attendance.note(ranking.judgements)
    candidates, failures = _results(own, ranking)
    broken = [seed for seed in seeds if seed not in pictures]
    candidates += [ReferenceCandidate(seed, 0, None, None) for seed in broken]
    failures += [FailedJudgement(seed, None, _BROKEN, "the picture has pixels that are not finite") for seed in broken]
    judged = sum(one.wins is not None for one in candidates)
    needed = max(2, settings.top + settings.bottom)
    if judged < needed:
        problem = f"only {judged} of {len(seeds)} candidates could be judged, and {needed} are needed"
        return PromptReferences(item.id, item.prompt, tuple(candidates), tuple(failures), problem), {}
    kept = _kept(candidates, judged, settings)
    images = {one.seed: png_of(pictures[one.seed]) for one in kept if one.kept is not None}
    return PromptReferences(item.id, item.prompt, tuple(kept), tuple(failures)), images


def candidate_seeds(prompt: str, settings: TournamentSettings, generation: int = 0) -> list[int]:
    """Seeds of a prompt's candidates, whatever other prompts there are."""
    return [derive_seed(settings.seed, "reference", generation, prompt, index) for index in range(settings.candidates)]


def _results(seeds: Sequence[int], ranking: Ranking) -> tuple[list[ReferenceCandidate], list[FailedJudgement]]:
    """Candidates best first, and the pairs without a result."""
    # In the order in which `rank` asks them.
    pairs = list(combinations(range(len(seeds)), 2))
    opponents = [0] * len(seeds)
    failures: list[FailedJudgement] = []
    for (earlier, later), judgement in zip(pairs, ranking.judgements, strict=True):
        if judgement.reward is None:
            failures.append(_failure(seeds[later], seeds[earlier], judgement))
        else:
            opponents[earlier] += 1
            opponents[later] += 1
    candidates = [
        ReferenceCandidate(seeds[index], opponents[index], ranking.wins[index], ranking.rewards[index])
        if opponents[index]
        else ReferenceCandidate(seeds[index], 0, None, None)
        for index in ranking.order
    ]
    return candidates, failures


def _failure(candidate: int, against: int, judgement: Judgement) -> FailedJudgement:
    return FailedJudgement(candidate, against, judgement.status.value, judgement.message)


def _kept(
    candidates: Sequence[ReferenceCandidate], judged: int, settings: TournamentSettings
) -> list[ReferenceCandidate]:
    """Candidates that could be judged stand first; the best and the worst of them are kept."""
    marks: dict[int, Kept] = dict.fromkeys(range(settings.top), "top")
    marks |= dict.fromkeys(range(judged - settings.bottom, judged), "bottom")
    return [replace(one, kept=marks.get(index)) for index, one in enumerate(candidates)]


def _report(on_progress: Callable[[int], None] | None, done: int) -> None:
    if on_progress is not None:
        on_progress(done)
