r"""Search over paths: at chosen noise levels every path branches, and the best branches go on.

1. Noise is denoised to the first level: `starts` paths, of which the best `paths` stay.
2. At each level a path becomes `branches` branches: taken back up by `renoise` with fresh noise, then denoised to the
   next level. There the verifier judges the picture that one step points to, and the best `paths` of all branches stay.
3. After the last level the branches are denoised to the end; the verifier chooses among the finished pictures.

Source:
    Search over paths, arXiv:2501.09732, section 3.3; RewardDance, arXiv:2509.08826, section 3.4, which names no
    numbers.
    Differs: noise is added by the flow's own forward process (`objectives.flow.renoise`); with `keeps_path`, one of the
    branches is the path itself, without fresh noise, so that a round cannot lose what was found; with more `starts`
    than `paths`, the first level prunes too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from rewarddance.core.errors import UsageError
from rewarddance.generators.protocol import Generator
from rewarddance.objectives.flow import renoise, x0_prediction
from rewarddance.search.bench import DEFAULT_DRAWING, Bench, Drawing, nearest_step
from rewarddance.search.budget import Budget
from rewarddance.search.results import Candidate, Look, SearchResult
from rewarddance.search.verification import Verdict, Verifier, verify


@dataclass(frozen=True, slots=True)
class PathSettings:
    """How the tree of paths grows.

    Attributes:
        paths: N, kept at every level.
        branches: M of each path, the path itself included with `keeps_path`.
        starts: Paths before the first level; None for as many as `paths`, without a judgement there.
        levels: Noise levels at which paths branch, falling; each stands for the nearest on the generator's way.
        renoise: How far a branch goes back up, in noise level.
        keeps_path: Whether the path itself, without fresh noise, is one of its branches.
        seed: Decides all noise; starts are the candidates of best of N.
    """

    paths: int = 3
    branches: int = 3
    starts: int | None = 12
    levels: tuple[float, ...] = (0.625, 0.375)
    renoise: float = 0.25
    keeps_path: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.paths < 1 or self.branches < 1 or self.first < self.paths:
            raise UsageError("search over paths needs at least one path, one branch, and a start for every path")
        falling = all(higher > lower for higher, lower in pairwise(self.levels))
        if not self.levels or not falling or not 0 < self.levels[-1] <= self.levels[0] < 1:
            raise UsageError(f"noise levels fall within 1 and 0; {self.levels} do not")
        if self.renoise <= 0:
            raise UsageError(f"branches differ by noise; {self.renoise} adds none")

    @property
    def first(self) -> int:
        """Paths before the first level."""
        return self.paths if self.starts is None else self.starts


@dataclass(frozen=True, slots=True)
class _Round:
    """Places on the way: where paths branch, how far back their branches go, and where they are judged."""

    at: int
    back: int
    to: int


@dataclass(frozen=True, slots=True)
class _Paths:
    """Latents at one place of the way, each with the indices that it goes back to."""

    latents: Float[Tensor, " paths *latent"]
    lineages: tuple[tuple[int, ...], ...]

    def select(self, rows: Sequence[int]) -> "_Paths":
        return _Paths(self.latents[list(rows)], tuple(self.lineages[row] for row in rows))


def search_paths(
    generator: Generator,
    verifier: Verifier,
    prompts: Sequence[str],
    settings: PathSettings,
    drawing: Drawing = DEFAULT_DRAWING,
) -> list[SearchResult]:
    """Search for the best picture of each prompt; see `search_for` for one."""
    return [search_for(generator, verifier, prompt, settings, drawing) for prompt in prompts]


def search_for(
    generator: Generator, verifier: Verifier, prompt: str, settings: PathSettings, drawing: Drawing = DEFAULT_DRAWING
) -> SearchResult:
    """Search for the best picture of one prompt.

    Raises:
        UsageError: The generator takes too few denoising steps for the levels.
    """
    bench = Bench(generator, prompt, drawing, settings.seed)
    rounds = _rounds(settings, bench.sigmas)
    stated = path_budget(settings, bench.sigmas, verifier)
    seeds = bench.seeds(settings.first)
    start = bench.denoise(bench.noise(seeds), 0, rounds[0].at)
    paths = _Paths(start, tuple((index,) for index in range(settings.first)))
    looks: list[Look] = []
    if settings.first > settings.paths:
        paths = _pruned(bench, verifier, paths, rounds[0].at, settings, looks)
    for number, one in enumerate(rounds):
        if not paths.lineages:
            break
        paths = _branched(bench, paths, one, number, settings)
        if one.to < bench.last:
            paths = _pruned(bench, verifier, paths, one.to, settings, looks)
    if not paths.lineages:
        problem = Verdict(tuple(look.opinion for look in looks if look.round == looks[-1].round), ()).problem
        return SearchResult(prompt, (), (), stated, bench.meter.spent, tuple(looks), problem)
    pixels = bench.pictures(paths.latents)
    verdict = verify(verifier, prompt, pixels, bench.meter)
    candidates = tuple(
        Candidate(seeds[lineage[0]], picture, opinion, lineage)
        for lineage, picture, opinion in zip(paths.lineages, pixels, verdict.opinions, strict=True)
    )
    return SearchResult(prompt, candidates, verdict.order, stated, bench.meter.spent, tuple(looks), verdict.problem)


def path_budget(settings: PathSettings, sigmas: Float[Tensor, " steps_and_end"], verifier: Verifier) -> Budget:
    """What it costs for one prompt.

    Args:
        settings: How the tree grows.
        sigmas: Noise levels of the way; see `Drawing.sigmas`.
        verifier: Who prunes.

    Raises:
        UsageError: The way has too few steps for the levels.
    """
    rounds = _rounds(settings, sigmas)
    fresh = settings.branches - settings.keeps_path

    def look(paths: int, velocities: int) -> Budget:
        return Budget(velocities, paths, verifier.judgements(paths))

    total = Budget(velocities=settings.first * rounds[0].at)
    if settings.first > settings.paths:
        total += look(settings.first, velocities=settings.first)
    branches = settings.paths * settings.branches
    for one in rounds:
        own = (one.to - one.at) if settings.keeps_path else 0
        total += Budget(velocities=settings.paths * (fresh * (one.to - one.back) + own))
        # At the end of the way latents are the picture: no velocity points further.
        total += look(branches, velocities=branches if one.to < len(sigmas) - 1 else 0)
    return total


def _rounds(settings: PathSettings, sigmas: Float[Tensor, " steps_and_end"]) -> tuple[_Round, ...]:
    last = len(sigmas) - 1
    places = [nearest_step(sigmas, level) for level in settings.levels]
    if places[-1] >= last or any(later <= earlier for earlier, later in pairwise(places)):
        raise UsageError(
            f"{last} denoising steps are too few for noise levels {settings.levels}: two of them, or one and the end, "
            "fall on the same step; take more steps or fewer levels"
        )
    # Pure noise would keep nothing of the path: a branch goes back to the first step after it at most.
    backs = [max(1, nearest_step(sigmas, float(sigmas[place]) + settings.renoise)) for place in places]
    short = [level for level, place, back in zip(settings.levels, places, backs, strict=True) if back >= place]
    if short:
        raise UsageError(
            f"re-noising by {settings.renoise} from noise level {short[0]} leads to no other step; "
            "take more, more denoising steps, or lower levels"
        )
    ends = [*places[1:], last]
    return tuple(_Round(at, back, to) for at, back, to in zip(places, backs, ends, strict=True))


def _branched(bench: Bench, paths: _Paths, one: _Round, number: int, settings: PathSettings) -> _Paths:
    """Every path's branches at the end of a round: those with fresh noise, then the paths themselves."""
    count = len(paths.lineages)
    fresh = settings.branches - settings.keeps_path
    parts, lineages = [], []
    if fresh:
        parents = [parent for parent in range(count) for _ in range(fresh)]
        noise = bench.noise(bench.seeds(count * fresh, "branch", number))
        low, high = bench.sigmas[one.at], bench.sigmas[one.back]
        parts.append(bench.denoise(renoise(paths.latents[parents], noise, low, high), one.back, one.to))
        own = 1 if settings.keeps_path else 0
        lineages += [(*paths.lineages[parent], own + index % fresh) for index, parent in enumerate(parents)]
    if settings.keeps_path:
        parts.append(bench.denoise(paths.latents, one.at, one.to))
        lineages += [(*lineage, 0) for lineage in paths.lineages]
    return _Paths(torch.cat(parts), tuple(lineages))


def _pruned(
    bench: Bench, verifier: Verifier, paths: _Paths, place: int, settings: PathSettings, looks: list[Look]
) -> _Paths:
    """The best paths by the picture that one step points to; none when none could be judged."""
    sigma = bench.sigmas[place]
    predicted = x0_prediction(paths.latents, bench.velocity(paths.latents, place), sigma)
    verdict = verify(verifier, bench.prompt, bench.pictures(predicted), bench.meter)
    kept = verdict.order[: settings.paths]
    number = looks[-1].round + 1 if looks else 0
    for index, (lineage, opinion) in enumerate(zip(paths.lineages, verdict.opinions, strict=True)):
        looks.append(Look(number, float(sigma), lineage, opinion, copies=settings.branches if index in kept else 0))
    return paths.select(kept)
