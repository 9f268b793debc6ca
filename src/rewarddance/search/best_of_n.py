"""Best of N: independent pictures of a prompt, and the verifier's choice among them.

Source:
    Random search in arXiv:2501.09732, section 3.1. The distance from the generator is log N - (N - 1) / N; see
    `metrics.overoptimization.best_of_n_kl`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rewarddance.core.errors import UsageError
from rewarddance.generators.protocol import Generator
from rewarddance.search.bench import DEFAULT_DRAWING, Bench, Drawing
from rewarddance.search.budget import Budget, Measure
from rewarddance.search.results import Candidate, SearchResult
from rewarddance.search.verification import Verifier, verify


@dataclass(frozen=True, slots=True)
class BestOfNSettings:
    """How wide the search is.

    Attributes:
        candidates: N.
        seed: Decides the noise; the first candidates of a larger N are those of a smaller one.
    """

    candidates: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise UsageError(f"best of {self.candidates} is nothing; ask for at least one candidate")


def best_of_n(
    generator: Generator,
    verifier: Verifier,
    prompts: Sequence[str],
    settings: BestOfNSettings,
    drawing: Drawing = DEFAULT_DRAWING,
) -> list[SearchResult]:
    """Search for the best picture of each prompt; see `search_for` for one."""
    return [search_for(generator, verifier, prompt, settings, drawing) for prompt in prompts]


def search_for(
    generator: Generator, verifier: Verifier, prompt: str, settings: BestOfNSettings, drawing: Drawing = DEFAULT_DRAWING
) -> SearchResult:
    """Make the candidates of one prompt, and have them judged."""
    bench = Bench(generator, prompt, drawing, settings.seed)
    stated = best_of_n_budget(settings, bench.last, verifier)
    seeds = bench.seeds(settings.candidates)
    pixels = bench.pictures(bench.denoise(bench.noise(seeds), 0, bench.last))
    verdict = verify(verifier, prompt, pixels, bench.meter)
    candidates = tuple(
        Candidate(seed, picture, opinion, (index,))
        for index, (seed, picture, opinion) in enumerate(zip(seeds, pixels, verdict.opinions, strict=True))
    )
    return SearchResult(
        prompt, candidates, verdict.order, stated, bench.meter.spent, problem=verdict.problem, is_plain=True
    )


def best_of_n_budget(settings: BestOfNSettings, denoising_steps: int, verifier: Verifier) -> Budget:
    """What it costs for one prompt."""
    n = settings.candidates
    return Budget(velocities=n * denoising_steps, decodes=n, judgements=verifier.judgements(n))


def affordable_candidates(budget: Budget, denoising_steps: int, verifier: Verifier, measure: Measure = "all") -> int:
    """The largest N whose best of N costs no more than another search did.

    Args:
        budget: What the other search cost.
        denoising_steps: From noise to picture.
        verifier: Of the best of N.
        measure: What is to be alike.

    Returns:
        At least 1, even where that is too much.
    """
    n = 1
    while best_of_n_budget(BestOfNSettings(n + 1), denoising_steps, verifier).of(measure) <= budget.of(measure):
        n += 1
    return n


def covering_candidates(budget: Budget, denoising_steps: int, verifier: Verifier, measure: Measure = "all") -> int:
    """The smallest N whose best of N costs at least what another search did, so that no budget is held against it.

    Args:
        budget: What the other search cost.
        denoising_steps: From noise to picture.
        verifier: Of the best of N.
        measure: What is to be alike.
    """
    n = affordable_candidates(budget, denoising_steps, verifier, measure)
    own = best_of_n_budget(BestOfNSettings(n), denoising_steps, verifier)
    return n if own.of(measure) >= budget.of(measure) else n + 1
