"""The guard against reward hacking: one call an evaluation, in any trainer's loop.

    guard = Guard(GuardConfig(), {"hps": hps_score}, features=dino)
    ...
    verdict = guard.check(step, pixels, prompts, proxy)
    if verdict.action == "roll_back":
        step = restore(verdict.best_step)
        guard.forget_after(step)

The pictures must come from the same prompts and the same noise at every evaluation, the base policy's first, several
pictures a prompt. The guard never sees the true preference; it needs at least one judge that the policy is not tuned
with. How it decides is in `guard_verdict`, the test in `guard_evidence`. Steps only grow: a loop that goes on from an
earlier one calls `forget_after`, or the next check raises. After an action that lets the run go on it compares with the
best since that action; `ends_at_best` of the last verdict says whether such a run should leave the policy of
`best_step` behind.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, SupportsFloat, SupportsIndex

from torch import Tensor

from rewarddance.config.guard import GuardConfig, SpreadConfig
from rewarddance.config.loader import require_config
from rewarddance.core.errors import CheckpointError, UsageError
from rewarddance.training.guard_observation import Features, HeldOutJudge, Observation, Rewards, observe
from rewarddance.training.guard_verdict import Verdict, first_verdict, next_verdict
from rewarddance.training.spread_detector import SpreadDetector


class Guard:
    """Watches one run."""

    def __init__(
        self, config: GuardConfig, held_out_judges: Mapping[str, HeldOutJudge], features: Features | None = None
    ) -> None:
        """Start with nothing seen.

        Args:
            config: What counts as hacking, and what to do about it.
            held_out_judges: Judges that the policy is not tuned with, by name; at least one.
            features: Frozen vision features for diversity; None for a grid of colours and edges.

        Raises:
            UsageError: There is no held-out judge, or the config is none.
        """
        require_config(config, GuardConfig)
        if not held_out_judges:
            raise UsageError("The guard needs a held-out judge. Name a reward model that the policy is not tuned with.")
        self._judges = dict(held_out_judges)
        self._features = features
        self._past = _Past(config)

    @property
    def observations(self) -> tuple[Observation, ...]:
        """Everything seen so far; to be stored for `replay`."""
        return tuple(self._past.observations)

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """One for each observation."""
        return tuple(self._past.verdicts)

    def check(
        self,
        optimizer_step: SupportsIndex,
        pixels: Tensor,
        prompts: Sequence[str],
        proxy: Rewards,
        distance: SupportsFloat | None = None,
    ) -> Verdict:
        """Look at the policy.

        Args:
            optimizer_step: How many updates it had; more than at the last call.
            pixels: RGB in [0, 1], (pictures, 3, height, width), or clips with their frames after the first axis; same
                prompts, noise and order at every call.
            prompts: The prompt of each picture.
            proxy: Reward (log-odds) of each picture by what the policy is tuned with.
            distance: Distance to the reference policy, if it was measured.

        Raises:
            UsageError: Prompts, judges or steps do not continue what was seen before, or pixels are no RGB in [0, 1].
            NonFiniteError: Some pixel is not finite.
            RewardError: A judge raised, or gave no usable rewards. Nothing is remembered of a call that raises.
        """
        return self.add(observe(optimizer_step, pixels, prompts, proxy, self._judges, self._features, distance))

    def add(self, observation: Observation) -> Verdict:
        """Judge an evaluation that was measured elsewhere; see `check`."""
        return self._past.add(observation)

    def forget_after(self, optimizer_step: int) -> None:
        """Drop what was seen later, after a roll-back to this step; the error that was spent stays spent."""
        self._past.forget_after(optimizer_step)

    def state_dict(self) -> dict[str, Any]:
        """Everything that was seen, as JSON; a restored guard says what this one would have said."""
        return self._past.to_json()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` gave.

        Raises:
            CheckpointError: It is something else.
        """
        self._past.from_json(state)


class _Past:
    """Observations and verdicts so far, looks spent, and the last action."""

    def __init__(self, config: GuardConfig) -> None:
        self.config = config
        self.observations: list[Observation] = []
        self.verdicts: list[Verdict] = []
        self.look = 0
        self.action_look: int | None = None

    def add(self, observation: Observation) -> Verdict:
        if not self.observations:
            _check_first(observation)
            verdict = first_verdict(self.config, observation)
        else:
            _check_continues(self.observations, observation)
            self.look += 1
            verdict = next_verdict(self.config, [*self.observations, observation], self.verdicts, self.look)
        if verdict.action != "none":
            if self.action_look is not None and self.look - self.action_look < self.config.cooldown:
                verdict = replace(verdict, action="none")
            else:
                self.action_look = self.look
        self.observations.append(observation)
        self.verdicts.append(verdict)
        return verdict

    def forget_after(self, optimizer_step: int) -> None:
        self.observations = [row for row in self.observations if row.optimizer_step <= optimizer_step]
        self.verdicts = self.verdicts[: len(self.observations)]

    def to_json(self) -> dict[str, Any]:
        return {
            "observations": [observation.to_json() for observation in self.observations],
            "verdicts": [asdict(verdict) for verdict in self.verdicts],
            "look": self.look,
            "action_look": self.action_look,
        }

    def from_json(self, state: Mapping[str, Any]) -> None:
        try:
            observations = [Observation.from_json(stored) for stored in state["observations"]]
            verdicts = [Verdict.from_json(stored) for stored in state["verdicts"]]
            self.look, self.action_look = state["look"], state["action_look"]
        except (KeyError, TypeError) as error:
            raise CheckpointError(
                f"the checkpoint's state of the guard is damaged or of another kind: {error!r}"
            ) from None
        self.observations, self.verdicts = observations, verdicts


def replay(config: GuardConfig | SpreadConfig, observations: Sequence[Observation]) -> tuple[Verdict, ...]:
    """Judge a recorded run again, with any thresholds, as if it were happening.

    Args:
        config: A guard's, or the paper's signal alone.
        observations: Of one run, from the base policy on; the run is taken to continue whatever the verdict.

    Returns:
        One verdict an observation. The run was called hacking if any of them is.

    Raises:
        UsageError: The observations are not of one run.
    """
    watch = SpreadDetector(config) if isinstance(config, SpreadConfig) else _Past(config)
    return tuple(watch.add(observation) for observation in observations)


def _check_first(observation: Observation) -> None:
    if not observation.held_out:
        raise UsageError("The guard needs a held-out judge. Name a reward model that the policy is not tuned with.")
    if len(observation.prompts) < 2:
        raise UsageError("The guard needs at least two prompts, better thirty. Give it more of the held-out prompts.")


def _check_continues(seen: Sequence[Observation], observation: Observation) -> None:
    first = seen[0]
    if observation.optimizer_step <= seen[-1].optimizer_step:
        last = seen[-1].optimizer_step
        raise UsageError(
            f"The guard saw step {last} already; {observation.optimizer_step} is not later. "
            "After a roll-back, call forget_after with the step that you went back to."
        )
    if observation.prompts != first.prompts or observation.proxy.shape != first.proxy.shape:
        raise UsageError("The guard compares the same prompts at every evaluation. Keep prompts and their order fixed.")
    if observation.held_out.keys() != first.held_out.keys():
        raise UsageError(f"The guard knows the judges {sorted(first.held_out)}, not {sorted(observation.held_out)}.")
