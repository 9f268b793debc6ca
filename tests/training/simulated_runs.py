"""Alignment runs as a guard sees them, with a true curve that is known: nothing is trained and no picture is made."""

from dataclasses import dataclass

import numpy as np

from rewarddance.training.guard_observation import Observation


@dataclass(frozen=True)
class Simulated:
    """Observations of a run and the true mean of the held-out judges at each."""

    observations: tuple[Observation, ...]
    truth: np.ndarray


def risen(evaluations: int, rise: float = 1.0, pace: float = 5.0) -> np.ndarray:
    """Rises towards a plateau and stays."""
    return rise * (1 - np.exp(-np.arange(evaluations) / pace))


def hacked(evaluations: int, rise: float = 1.0, peak: int = 7, fall: float = 0.6) -> np.ndarray:
    """Rises to a peak, then loses `fall` of the rise by the end."""
    time = np.arange(evaluations)
    up = rise * np.sin(np.pi / 2 * np.minimum(time / peak, 1))
    return up - rise * fall * np.clip((time - peak) / (evaluations - 1 - peak), 0, None)


def simulate(
    truth: np.ndarray, seed: int, prompts: int = 48, samples: int = 4, judges: int = 2, wander: float = 0.35
) -> Simulated:
    """Measure a true curve through judges that differ from it and from each other.

    Prompts differ in difficulty (1), gain more or less than the mean, and wander about it from evaluation to
    evaluation; each judge adds noise of its own. The proxy rises in any case.
    """
    rng = np.random.default_rng(seed)
    n = len(truth)
    difficulty = rng.normal(size=prompts)
    gain = rng.gamma(4.0, 0.25, size=prompts)  # mean 1
    steps = rng.normal(size=(n, prompts)) * wander
    wandering = np.zeros((n, prompts))
    for index in range(1, n):  # nearby evaluations are alike; far ones differ by about 2.3 times `wander`
        wandering[index] = 0.9 * wandering[index - 1] + steps[index]
    shown = difficulty + gain * truth[:, None] + wandering
    held_out = {
        f"judge{number}": 2.0 * shown + rng.normal(size=prompts) + 0.3 * rng.normal(size=(n, prompts))
        for number in range(judges)
    }
    proxy = np.linspace(0, 3, n)[:, None, None] + rng.normal(size=(n, prompts, samples))
    names = tuple(f"prompt {number}" for number in range(prompts))
    observations = tuple(
        Observation(
            optimizer_step=10 * index,
            prompts=names,
            proxy=proxy[index],
            held_out={name: values[index] for name, values in held_out.items()},
            diversity=np.full(prompts, 1.0),
            statistics={"contrast": np.linspace(0.1, 0.3, prompts)},
        )
        for index in range(n)
    )
    return Simulated(observations, truth)
