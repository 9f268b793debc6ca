"""One optimizer step on a policy: send back every piece of its loss, check, update."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rewarddance.config.alignment import PolicyOptimizerConfig
from rewarddance.core.errors import NonFiniteError
from rewarddance.training.pause_points import reached
from rewarddance.training.policy import Policy
from rewarddance.training.schedule import constant_with_warmup, cosine_with_warmup
from rewarddance.training.trained_parameters import decay_groups
from rewarddance.training.workbench import LossPart

_NAMES_IN_MESSAGE = 4
_LARGEST = "largest_"


@dataclass(frozen=True, slots=True)
class UpdateFigures:
    """What one optimizer step showed, before its update.

    Attributes:
        loss: Sum of the pieces.
        reward: Mean log-odds of the pictures.
        score: Mean of their scores in [0, 1].
        reward_spread: Standard deviation of log-odds within a prompt, the mean over prompts with several pictures.
        distance: Mean distance from the reference policy; None when not measured.
        gradient_norm: Length of the gradient before it was limited.
        learning_rate: Of the update.
        method: The method's own figures, averaged over pieces; those named `largest_...` are the largest.
    """

    loss: float
    reward: float
    score: float
    reward_spread: float | None
    distance: float | None
    gradient_norm: float
    learning_rate: float
    method: Mapping[str, float]


class PolicyOptimizer:
    """AdamW over what the policy learns.

    Attributes:
        updates: Changes of the weights that were begun here.
    """

    def __init__(self, policy: Policy, settings: PolicyOptimizerConfig, total_steps: int) -> None:
        self._policy = policy
        self._settings = settings
        self._total_steps = total_steps
        self.updates = 0
        groups = decay_groups(policy.module, settings.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas, fused=True)

    def step(self, optimizer_step: int, parts: Iterable[LossPart]) -> UpdateFigures:
        """Learn from one set of pieces.

        Args:
            optimizer_step: Updates made so far.
            parts: Made one by one; the graph of each is gone before the next is made.

        Raises:
            NonFiniteError: A loss or the gradient is not finite; names prompts. The weights are as they were.
        """
        self.optimizer.zero_grad(set_to_none=True)
        seen = []
        for part in parts:
            loss = float(part.loss.detach())
            if not math.isfinite(loss):
                raise _non_finite("loss", optimizer_step, part.prompts)
            part.loss.backward()  # type: ignore[no-untyped-call]
            seen.append(_Seen(loss, part))
        reached("step:after-backward")
        limit = self._settings.max_gradient_norm
        parameters = list(self._policy.parameters.values())
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, math.inf if limit is None else limit))
        if not math.isfinite(norm):
            raise _non_finite("gradient", optimizer_step, [prompt for one in seen for prompt in one.prompts])
        rate = self._learning_rate(optimizer_step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.updates += 1
        self.optimizer.step()
        reached("step:after-update")
        return _figures(seen, norm, rate)

    def _learning_rate(self, optimizer_step: int) -> float:
        schedule = cosine_with_warmup if self._settings.decay == "cosine" else constant_with_warmup
        return self._settings.learning_rate * schedule(optimizer_step, self._total_steps, self._settings.warmup_share)


class _Seen:
    """What stays of a piece when its graph is gone."""

    def __init__(self, loss: float, part: LossPart) -> None:
        self.loss = loss
        self.prompts = part.prompts
        self.rewards = part.rewards
        self.distance = None if part.distance is None else float(part.distance.mean())
        self.figures = part.figures


def _figures(seen: Sequence[_Seen], norm: float, rate: float) -> UpdateFigures:
    by_picture: list[tuple[tuple[str, ...], Tensor]] = []
    for one in seen:
        # A method may send the same pictures back in several pieces.
        if one.rewards is not None and not any(one.rewards is rewards for _, rewards in by_picture):
            by_picture.append((one.prompts, one.rewards))
    rewards = torch.cat([values.detach().double().cpu() for _, values in by_picture])
    prompts = [prompt for texts, _ in by_picture for prompt in texts]
    distances = [one.distance for one in seen if one.distance is not None]
    return UpdateFigures(
        loss=sum(one.loss for one in seen),
        reward=float(rewards.mean()),
        score=float(torch.sigmoid(rewards).mean()),
        reward_spread=_spread(prompts, rewards),
        distance=sum(distances) / len(distances) if distances else None,
        gradient_norm=norm,
        learning_rate=rate,
        method=_merged([one.figures for one in seen]),
    )


def _spread(prompts: Sequence[str], rewards: Tensor) -> float | None:
    groups: dict[str, list[int]] = {}
    for place, prompt in enumerate(prompts):
        groups.setdefault(prompt, []).append(place)
    spreads = [rewards[places].std(correction=0) for places in groups.values() if len(places) > 1]
    return float(torch.stack(spreads).mean()) if spreads else None


def _merged(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = list(dict.fromkeys(name for each in figures for name in each))
    merged: dict[str, float] = {}
    for name in names:
        values = [each[name] for each in figures if name in each]
        merged[name] = max(values) if name.startswith(_LARGEST) else sum(values) / len(values)
    return merged


def _non_finite(what: str, optimizer_step: int, prompts: Sequence[str]) -> NonFiniteError:
    named = list(dict.fromkeys(prompts))
    more = f" and {len(named) - _NAMES_IN_MESSAGE} more" if len(named) > _NAMES_IN_MESSAGE else ""
    return NonFiniteError(
        f"{what} is not finite at optimizer step {optimizer_step + 1}, prompts "
        f"{json.dumps(named[:_NAMES_IN_MESSAGE], ensure_ascii=False)}{more}; "
        "lower optimizer.learning_rate or look at these prompts, and resume from the last checkpoint"
    )
