"""The paper's own sign of reward hacking as a detector: the variance of rewards that vanishes.

Source:
    RewardDance, arXiv:2509.08826, Figures 2 and 5: variance of the reward in a sliding window of training, read as
    mode collapse when it is low. Differs: the paper only shows it late in a run and states no threshold; here it is
    measured on the fixed prompts of an evaluation, and a share of the first evaluation's is the threshold.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, SupportsFloat, SupportsIndex

import numpy as np
from torch import Tensor

from rewarddance.config.guard import SpreadConfig
from rewarddance.core.errors import UsageError
from rewarddance.training.guard_observation import Observation, Rewards, observe
from rewarddance.training.guard_verdict import Verdict


class SpreadDetector:
    """Watches one run as `Guard` does, by the spread of the proxy alone; to compare, not to rely on."""

    def __init__(self, config: SpreadConfig) -> None:
        self._config = config
        self._observations: list[Observation] = []
        self._verdicts: list[Verdict] = []

    def check(
        self,
        optimizer_step: SupportsIndex,
        pixels: Tensor,
        prompts: Sequence[str],
        proxy: Rewards,
        distance: SupportsFloat | None = None,
    ) -> Verdict:
        """Look at the policy; see `Guard.check`."""
        return self.add(observe(optimizer_step, pixels, prompts, proxy, {}, None, distance))

    def add(self, observation: Observation) -> Verdict:
        """Judge an evaluation that was measured elsewhere.

        Raises:
            UsageError: One picture a prompt has no spread within it.
        """
        if self._config.among == "prompt" and observation.spread is None:
            raise UsageError("Spread within a prompt needs several pictures of each prompt. Sample more of each.")
        self._observations.append(observation)
        verdict = self._verdict()
        self._verdicts.append(verdict)
        return verdict

    def state_dict(self) -> dict[str, Any]:
        """Everything that was seen, as JSON."""
        return {
            "observations": [observation.to_json() for observation in self._observations],
            "verdicts": [asdict(verdict) for verdict in self._verdicts],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` gave."""
        self._observations = [Observation.from_json(stored) for stored in state["observations"]]
        self._verdicts = [Verdict.from_json(stored) for stored in state["verdicts"]]

    def _verdict(self) -> Verdict:
        config, now = self._config, self._observations[-1]
        start = _variance(config, self._observations[:1])
        variance = _variance(config, self._observations[-config.window :])
        is_hacking = variance < config.share * start
        # Without a held-out judge the last evaluation that did not alarm is all there is to go back to.
        quiet = [verdict.optimizer_step for verdict in self._verdicts if verdict.state == "healthy"]
        best = quiet[-1] if is_hacking and quiet else now.optimizer_step
        return Verdict(
            state="hacking" if is_hacking else "healthy",
            reason=f"the variance of {config.of}s is {variance:.3g}; it was {start:.3g} at the first evaluation",
            action=config.action if is_hacking else "none",
            optimizer_step=now.optimizer_step,
            best_step=best,
            keep_steps=(best,),
            signals=("spread",) if is_hacking else (),
            figures={"variance": variance, "variance_at_start": start, "spread": now.spread},
        )


def _variance(config: SpreadConfig, window: Sequence[Observation]) -> float:
    rewards = np.stack([row.scores if config.of == "score" else row.proxy for row in window])
    if config.among == "all":
        return float(rewards.var(ddof=1))
    return float(rewards.var(axis=2, ddof=1).mean())  # (window, prompts, samples)
