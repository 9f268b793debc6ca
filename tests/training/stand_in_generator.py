"""A small real flow generator for tests of the trainers: diffusers' SD3 network on pictures of 8 by 8 pixels."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import SD3Transformer2DModel
from torch import Tensor, nn

from rewarddance.config.alignment import AlignConfig
from rewarddance.generators.merged_weights import merged_network
from rewarddance.generators.protocol import Conditions, ImageSize
from rewarddance.training.policy import Policy
from rewarddance.training.prompt_draws import PromptDraws
from rewarddance.training.reward_signal import ModelReward, Patience, RewardSignal
from rewarddance.training.workbench import Workbench

SIDE = 8
WORDS = ("red", "blue", "green", "small")
AT_ONCE = Patience(deadline_seconds=None, tries=1)

_WIDTH = 16


class StandInGenerator:
    """Implements `Generator` without an image decoder: latents are pixels, and the prompt is a count of words."""

    name = "stand_in"
    default_size = ImageSize(SIDE, SIDE)
    default_denoising_steps = 4
    default_guidance = 1.0

    def __init__(self, seed: int = 0) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self._network = SD3Transformer2DModel(
                sample_size=SIDE,
                patch_size=2,
                in_channels=3,
                num_layers=1,
                attention_head_dim=8,
                num_attention_heads=2,
                joint_attention_dim=_WIDTH,
                caption_projection_dim=_WIDTH,
                pooled_projection_dim=len(WORDS),
                out_channels=3,
                pos_embed_max_size=SIDE // 2,
            )
            self._words = nn.Embedding(len(WORDS), _WIDTH)

    @property
    def module(self) -> nn.Module:
        return self._network

    @property
    def frozen_modules(self) -> Mapping[str, nn.Module]:
        return {"words": self._words}

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], size: ImageSize | None = None) -> Conditions:
        counts = torch.tensor([[float(prompt.split().count(word)) for word in WORDS] for prompt in prompts])
        return Conditions(
            {"counts": counts, "tokens": counts[:, :, None] * self._words.weight}, None, self.default_size
        )

    def initial_noise(self, seeds: Sequence[int], size: ImageSize | None = None) -> Tensor:
        rngs = [torch.Generator().manual_seed(seed) for seed in seeds]
        return torch.stack([torch.randn(3, SIDE, SIDE, generator=rng) for rng in rngs])

    def sigmas(self, denoising_steps: int, size: ImageSize | None = None) -> Tensor:
        return torch.linspace(1.0, 0.0, denoising_steps + 1)

    def velocity(self, latents: Tensor, sigma: Tensor, conditions: Conditions, guidance: float | None = None) -> Tensor:
        answer = self._network(
            hidden_states=latents,
            timestep=sigma * 1000,
            encoder_hidden_states=conditions.positive["tokens"],
            pooled_projections=conditions.positive["counts"],
            return_dict=False,
        )[0]
        return answer.float()

    def decode(self, latents: Tensor, size: ImageSize | None = None) -> Tensor:
        return (0.25 * latents + 0.5).clamp(0, 1)

    def latents_of(self, pixels: Tensor) -> Tensor:
        return (pixels - 0.5) / 0.25

    def gradient_checkpointing(self, is_on: bool) -> None:
        (self._network.enable_gradient_checkpointing if is_on else self._network.disable_gradient_checkpointing)()

    def save(self, folder: Path) -> None:
        merged_network(self._network).save_pretrained(folder / "transformer")


def redness(pixels: Tensor, prompts: Sequence[str]) -> Tensor:
    """Log-odds that a picture is redder than it is green and blue."""
    return 8 * (pixels[:, 0] - pixels[:, 1:].mean(1)).flatten(1).mean(1)


def darkness(pixels: Tensor, prompts: Sequence[str]) -> Tensor:
    """Log-odds that a picture is dark."""
    return 8 * (0.5 - pixels.flatten(1).mean(1))


def reward_of(score: Callable[[Tensor, Sequence[str]], Tensor] = redness, weight: float = 1.0) -> RewardSignal:
    """A differentiable reward."""
    return RewardSignal([pixel_reward("redness", score, weight)], patience=AT_ONCE)


def pixel_reward(name: str, score: Callable[[Tensor, Sequence[str]], Tensor], weight: float = 1.0) -> ModelReward:
    """One of several."""
    model = SimpleNamespace(reward=lambda pixels, prompts, *_: score(pixels, prompts))
    return ModelReward(name, model, weight, needs_references=False)


def align_config(folder: Path, method: str | dict[str, object] = "refl", **changes: object) -> AlignConfig:
    """A small run; `changes` replace whole top-level keys."""
    prompts = folder / "prompts.txt"
    folder.mkdir(parents=True, exist_ok=True)
    prompts.write_text("a red thing\na blue thing\na small green thing\na small red thing\n", encoding="utf-8")
    methods = {
        "refl": {"name": "refl"},
        "draft": {"name": "draft", "last_steps": 2},
        "flow_grpo": {"name": "flow_grpo", "group_size": 4, "updates_per_rollout": 2, "clip_range": 0.2},
        "diffusion_nft": {"name": "diffusion_nft", "group_size": 4, "updates_per_rollout": 2, "old_policy": "rising"},
    }
    settings: dict[str, object] = {
        "generator": {"path": "unused", "lora": {"rank": 4, "alpha": 8}},
        "rewards": [{"model": "unused_reward"}],
        "prompts": {"train": str(prompts)},
        "method": methods[method] if isinstance(method, str) else method,
        "optimizer": {"learning_rate": 5e-3, "warmup_share": 0.0},
        "batch_size": 8,
        "optimizer_steps": 4,
        "save_every": 2,
        "evaluate_every": 2,
        "samples_every": 2,
        "evaluation_prompts": 3,
        "evaluation_samples": 2,
        "sample_prompts": 1,
        "out": str(folder / "run"),
    }
    return AlignConfig.model_validate({**settings, **changes})


def bench_of(config: AlignConfig, reward: RewardSignal | None = None, generator: object = None) -> Workbench:
    """What a method works with, without a run around it."""
    policy = Policy(generator or StandInGenerator(), config.generator.lora, config.precision, config.seed)
    draws = PromptDraws(config.seed, ("a red thing", "a blue thing", "a small thing"), config.batch_size)
    return Workbench(config, policy, reward or reward_of(), draws, lambda prompts: None)


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Lines of a run's log."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
