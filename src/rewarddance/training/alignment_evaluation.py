"""What the policy makes of fixed prompts and fixed noise, and what its judges say of it."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from rewarddance.core.clips import frame_positions
from rewarddance.core.files import write_bytes_atomic, write_text_atomic
from rewarddance.core.filmstrips import FRAMES_SHOWN, filmstrip
from rewarddance.core.seeding import derive_seed
from rewarddance.objectives.flow import ode_step
from rewarddance.objectives.kl import velocity_distance
from rewarddance.training.guard import Guard
from rewarddance.training.guard_observation import Features, HeldOutJudge, Observation, observe
from rewarddance.training.guard_verdict import Verdict
from rewarddance.training.reward_signal import image_from_pixels, refuse_broken_pixels
from rewarddance.training.run_folder import RunFolder
from rewarddance.training.workbench import Workbench

KIND_PREFIX = "kind:"
"""Before the names of figures that make the table by kind of prompt."""

_SATURATED_SCORE = 0.95
_PICTURE_AXES = 3


@dataclass(frozen=True, slots=True)
class Evaluated:
    """One evaluation.

    Attributes:
        pixels: Pictures or clips, prompt by prompt, on the CPU.
        observation: Figures for each prompt.
        verdict: The guard's; None without one.
    """

    pixels: Float[Tensor, "pictures *frames 3 height width"]
    observation: Observation
    verdict: Verdict | None

    def row(self, extra: Mapping[str, float | None]) -> dict[str, object]:
        """One line of `evaluations.jsonl`."""
        seen, verdict = self.observation, self.verdict
        return {
            "optimizer_step": seen.optimizer_step,
            "proxy": float(seen.proxy.mean()),
            "proxy_score": float(seen.scores.mean()),
            "held_out": {name: float(values.mean()) for name, values in seen.held_out.items()},
            "spread": seen.spread,
            "saturation": seen.saturation(_SATURATED_SCORE),
            "diversity": None if seen.diversity is None else float(seen.diversity.mean()),
            "statistics": {name: float(values.mean()) for name, values in seen.statistics.items()},
            "kl": seen.distance,
            "extra": dict(extra),
            "verdict": None if verdict is None else verdict.state,
            "reason": None if verdict is None else verdict.reason,
            "action": None if verdict is None else verdict.action,
            "best_step": None if verdict is None else verdict.best_step,
        }


class Evaluation:
    """The same prompts and noise at every call.

    Attributes:
        prompts: Each once.
    """

    def __init__(
        self,
        bench: Workbench,
        prompts: tuple[str, ...],
        judges: Mapping[str, HeldOutJudge],
        guard: Guard | None,
        features: Features | None = None,
        kinds: Mapping[str, str] | None = None,
    ) -> None:
        """Choose the noise.

        Args:
            bench: Policy, reward, and the sampling, which is that of evaluations.
            prompts: Each once.
            judges: Held-out judges; the guard has its own.
            guard: Who watches; None for nobody.
            features: What diversity is measured by where nobody watches; the guard has its own. None for colours and
                edges.
            kinds: Of those prompts that have one.
        """
        self._bench = bench.for_evaluation()
        self.prompts = prompts
        self._judges = judges
        self._guard = guard
        self._features = features
        self._kinds = kinds or {}
        # Those of the beginning, as for the judges: with references made anew, rewards fall for another reason.
        self._references = bench.references
        self._samples = bench.config.evaluation_samples
        self._batch_size = bench.config.evaluation_batch_size or bench.config.batch_size

    @torch.no_grad()
    def at(self, optimizer_step: int) -> Evaluated:
        """Look at the policy as it is.

        Raises:
            RewardError: A reward or judge gave no usable numbers.
            NonFiniteError: The policy's pictures are not finite.
        """
        asked = tuple(prompt for prompt in self.prompts for _ in range(self._samples))
        made = [self._pictures(asked, first, optimizer_step) for first in range(0, len(asked), self._batch_size)]
        pixels = torch.cat([pictures.pixels for pictures in made])
        distance = float(torch.cat([pictures.distance for pictures in made]).mean())
        proxy = [value for pictures in made for value in pictures.proxy.tolist()]
        if self._guard is None:
            seen = observe(optimizer_step, pixels, asked, proxy, self._judges, self._features, distance)
            return Evaluated(pixels, seen, None)
        verdict = self._guard.check(optimizer_step, pixels, asked, proxy, distance)
        return Evaluated(pixels, self._guard.observations[-1], verdict)

    def score_by_kind(self, seen: Observation) -> dict[str, float]:
        """Mean score (of the proxy) by kind of prompt, for the kinds that there are."""
        places: dict[str, list[int]] = {}
        for place, prompt in enumerate(seen.prompts):
            if prompt in self._kinds:
                places.setdefault(self._kinds[prompt], []).append(place)
        return {f"{KIND_PREFIX}{kind}": float(seen.scores[own].mean()) for kind, own in places.items()}

    def keep_pictures(
        self, pixels: Float[Tensor, "pictures *frames 3 height width"], folder: RunFolder, optimizer_step: int
    ) -> None:
        """Store pictures of the first prompts as `step-00000100/PROMPT-SAMPLE.png`, and the prompts beside them.

        Of a clip, a few evenly spaced frames are stored in a row.
        """
        shown = self.prompts[: self._bench.config.sample_prompts]
        place = folder.sample(optimizer_step)
        place.mkdir(parents=True, exist_ok=True)
        lines = (json.dumps({"prompt": prompt}, ensure_ascii=False) + "\n" for prompt in shown)
        write_text_atomic(folder.samples / "prompts.jsonl", "".join(lines))
        for number in range(len(shown) * self._samples):
            prompt, sample = divmod(number, self._samples)
            encoded = io.BytesIO()
            _shown(pixels[number]).save(encoded, "PNG")
            write_bytes_atomic(place / f"{prompt}-{sample}.png", encoded.getvalue())

    def _pictures(self, asked: tuple[str, ...], first: int, optimizer_step: int) -> "_Pictures":
        """A batch with its rewards and its mean distance from the reference policy along the way."""
        bench = self._bench
        places = range(first, min(first + self._batch_size, len(asked)))
        prompts = tuple(asked[place] for place in places)
        seeds = [derive_seed(bench.config.seed, "evaluation", *divmod(place, self._samples)) for place in places]
        conditions, latents, sigmas = bench.conditions(prompts), bench.noise(seeds), bench.sigmas
        distances = []
        for sigma, next_sigma in pairwise(sigmas):
            velocity = bench.policy.velocity(latents, sigma, conditions, bench.guidance)
            home = bench.policy.reference_velocity(latents, sigma, conditions, bench.guidance)
            distances.append(velocity_distance(velocity, home))
            latents = ode_step(latents, velocity, sigma, next_sigma)
        pixels = bench.pictures(latents)
        refuse_broken_pixels(pixels, prompts, optimizer_step)
        # Step 0: a random pick among references stays the same from one evaluation to the next.
        values = bench.reward.judge(pixels, prompts, self._references(prompts), optimizer_step=0, is_training=False)
        return _Pictures(pixels.float().cpu(), values.proxy.cpu(), torch.stack(distances).mean(0).cpu())


def _shown(pixels: Float[Tensor, "*frames 3 height width"]) -> Image.Image:
    if pixels.ndim == _PICTURE_AXES:
        return image_from_pixels(pixels)
    return filmstrip([image_from_pixels(pixels[place]) for place in frame_positions(len(pixels), FRAMES_SHOWN)])


@dataclass(frozen=True, slots=True)
class _Pictures:
    pixels: Float[Tensor, "batch *frames 3 height width"]
    proxy: Float[Tensor, " batch"]
    distance: Float[Tensor, " batch"]
