"""What a search found: every candidate with its pixels and what the verifier said, and what it cost."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from rewarddance.search.budget import Budget


@dataclass(frozen=True, slots=True)
class Opinion:
    """What the verifier says of one picture. Without a reward the picture was not judged, and cannot win.

    Attributes:
        reward: Log-odds; in a tournament, their mean against the opponents met. None where it could not be judged.
        wins: Opponents beaten, ties counting one half; None outside tournaments.
        status: `ok`, how the judgement failed, or `broken_picture` for pixels that are not finite.
        message: One line on what went wrong.
    """

    reward: float | None
    wins: float | None = None
    status: str = "ok"
    message: str | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A finished picture.

    Attributes:
        seed: Of the initial noise that it goes back to.
        pixels: RGB in [0, 1] in steps of 1/255, on the CPU.
        opinion: The verifier's.
        lineage: Index of the start that it goes back to, then of the branch taken (path search) or of the particle
            copied (particles) in each round.
        weight: Of a particle: its share of the reward-tilted distribution; the shares of a prompt sum to 1.
    """

    seed: int
    pixels: Float[Tensor, "3 height width"]
    opinion: Opinion
    lineage: tuple[int, ...] = ()
    weight: float | None = None


@dataclass(frozen=True, slots=True)
class Look:
    """A judgement on the way, of the picture that one step points to.

    Attributes:
        round: Which of the looks, from 0.
        sigma: Noise level of the latents.
        lineage: Whose latents.
        opinion: The verifier's.
        copies: How many candidates of the next round go back to it; 0 for a path that ends here.
    """

    round: int
    sigma: float
    lineage: tuple[int, ...]
    opinion: Opinion
    copies: int


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The search for one prompt.

    Attributes:
        prompt: What was asked for.
        candidates: Finished pictures, in the order in which they were made.
        order: Indices of those that were judged, best first.
        stated: Evaluations announced before the search.
        spent: Evaluations counted; the same, unless pictures or judgements failed.
        looks: Judgements on the way.
        problem: Why there is no winner, in one line; None when all is well.
        is_plain: Whether candidates are independent pictures of the generator as it is, as those of best of N.
    """

    prompt: str
    candidates: tuple[Candidate, ...]
    order: tuple[int, ...]
    stated: Budget
    spent: Budget
    looks: tuple[Look, ...] = ()
    problem: str | None = None
    is_plain: bool = False

    @property
    def winner(self) -> Candidate | None:
        """The best candidate; None when none could be judged."""
        return self.candidates[self.order[0]] if self.order else None

    @property
    def failed_judgements(self) -> int:
        """Pictures, on the way or finished, of which the verifier had nothing to say."""
        opinions = [look.opinion for look in self.looks] + [candidate.opinion for candidate in self.candidates]
        return sum(opinion.reward is None for opinion in opinions)
