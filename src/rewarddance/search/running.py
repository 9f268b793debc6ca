"""A search over a list of prompts, stored as it goes; and what it will cost, before it starts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rewarddance.core.errors import ModelError, PromptError, UsageError
from rewarddance.data.prompts import PromptItem
from rewarddance.generators.protocol import Generator
from rewarddance.search import best_of_n, particles, path_search
from rewarddance.search.attendance import Attendance, AttendedJudge
from rewarddance.search.bench import Drawing
from rewarddance.search.best_of_n import BestOfNSettings, best_of_n_budget
from rewarddance.search.budget import Budget
from rewarddance.search.output import SearchSummary, SearchWriter
from rewarddance.search.particles import ParticleSettings, particle_budget
from rewarddance.search.path_search import PathSettings, path_budget
from rewarddance.search.results import SearchResult
from rewarddance.search.verification import Judge, Verifier
from rewarddance.search.watch import Watch, watch, watch_budget

Algorithm = BestOfNSettings | PathSettings | ParticleSettings
"""The settings of a search say which one it is."""


@dataclass(frozen=True, slots=True)
class Search:
    """Everything that a search needs but the prompt.

    Attributes:
        generator: Makes pictures.
        verifier: Chooses.
        settings: How.
        drawing: How pictures are made.
        judge: Held out, to watch the verifier; None for nobody.
        judge_instruction: Name or file of criteria for the judge; None for its own.
    """

    generator: Generator
    verifier: Verifier
    settings: Algorithm
    drawing: Drawing
    judge: Judge | None = None
    judge_instruction: str | Path | None = None

    def run(self, prompt: str) -> SearchResult:
        """Search for the best picture of a prompt; one that the generator cannot read has none, and costs nothing."""
        try:
            return self._run(prompt)
        except PromptError as error:
            return SearchResult(prompt, (), (), self.budget(), Budget(), problem=str(error))

    def _run(self, prompt: str) -> SearchResult:
        asked = (self.generator, self.verifier, prompt)
        match self.settings:
            case BestOfNSettings() as settings:
                return best_of_n.search_for(*asked, settings, self.drawing)
            case PathSettings() as settings:
                return path_search.search_for(*asked, settings, self.drawing)
            case ParticleSettings() as settings:
                return particles.search_for(*asked, settings, self.drawing)

    def budget(self) -> Budget:
        """What the search costs for each prompt, if no judgement fails.

        Raises:
            UsageError: The generator, the verifier and the settings do not fit each other.
        """
        sigmas = self.drawing.sigmas(self.generator)
        if self.verifier.way != "score" and self._fewest < 2:
            raise UsageError(
                "a tournament needs two pictures at least; ask for more, or score them one by one "
                "(a pointwise or scalar model, or a pairwise one with reference images)"
            )
        match self.settings:
            case BestOfNSettings() as settings:
                return best_of_n_budget(settings, len(sigmas) - 1, self.verifier)
            case PathSettings() as settings:
                return path_budget(settings, sigmas, self.verifier)
            case ParticleSettings() as settings:
                return particle_budget(settings, sigmas, self.verifier)

    @property
    def _fewest(self) -> int:
        """Pictures among which a winner is chosen."""
        match self.settings:
            case BestOfNSettings(candidates=count) | PathSettings(paths=count) | ParticleSettings(particles=count):
                return count

    def watch_budget(self) -> Budget:
        """The most that watching a prompt costs; nothing without a judge."""
        if self.judge is None:
            return Budget()
        plain = self.settings.candidates if isinstance(self.settings, BestOfNSettings) else 0
        return watch_budget(len(self.drawing.sigmas(self.generator)) - 1, plain)


def run_searches(
    search: Search,
    prompts: Sequence[PromptItem],
    writer: SearchWriter,
    on_progress: Callable[[int], None] = lambda done: None,
) -> SearchSummary:
    """Search for every prompt that has no row yet, or one without some answers, storing each as it ends.

    Args:
        search: What to do.
        prompts: At least one; equal texts are one prompt.
        writer: Of the folder.
        on_progress: Called with the number of prompts that are done.

    Raises:
        ModelError: The verifier or the judge answers no more; of the prompt at hand, nothing is stored.
        UsageError: Another process searches in the folder.
    """
    with writer.alone():
        verifier = AttendedJudge(search.verifier.model, Attendance(has_answered=writer.verifier_has_answered))
        watching = Attendance(has_answered=writer.judge_has_answered)
        judge = None if search.judge is None else AttendedJudge(search.judge, watching)
        search = replace(search, verifier=replace(search.verifier, model=verifier), judge=judge)
        distinct = len({item.prompt for item in prompts})
        missing = writer.missing(prompts)
        resumed = distinct - len(missing)
        for done, item in enumerate(missing, start=resumed):
            on_progress(done)
            try:
                result = search.run(item.prompt)
                seen = _watched(search, result)
            except ModelError:
                writer.set_back(item.prompt)
                raise
            writer.add(item, result, seen, verifier.attendance.end_prompt() + watching.end_prompt())
        on_progress(distinct)
        return writer.finish(prompts, resumed)


def _watched(search: Search, result: SearchResult) -> Watch | None:
    """What the held-out judge sees; None without one, or without pictures."""
    if search.judge is None or not result.candidates:
        return None
    return watch(
        search.generator,
        search.verifier,
        search.judge,
        result,
        search.settings.seed,
        search.drawing,
        search.judge_instruction,
    )
