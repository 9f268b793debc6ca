"""Time and memory of one ReFL step: ours beside a plain implementation, on the same generator and reward model.

A step reads prompts, denoises without gradient to a late step, predicts the picture from one velocity with gradient,
decodes it, asks the reward model in both orders, and updates the network. The plain implementation is the usual one:
diffusers' pipeline taken apart (its text encoding, scheduler and decoder), the image processor's arithmetic in torch,
and the vision-language model called on every question with its whole output, logits of all tokens over the whole
vocabulary. Both see the same noise, tokens and pictures, and must give the same reward and the same gradient before
anything is measured. Neither computes activations twice.

In time the two take turns in one process, and the figure is the ratio of the medians, because other programs may
share the machine. Memory is the highest resident size of a process of its own that runs nothing but one route,
and its rise over the size before the first step. Run it with

    python -m benchmarks.refl_step --json refl_step.json
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import diffusers
import torch
import transformers
from torch.nn import functional

from benchmarks.wide_vocabulary import widened
from rewarddance.generators.loading import load_generator
from rewarddance.generators.protocol import ImageSize
from rewarddance.generators.sampling import sample
from rewarddance.objectives.flow import x0_prediction
from rewarddance.objectives.reward_feedback import refl_loss
from rewarddance.rewards.backbones.internvl import CHAT_TEMPLATE, IMAGE_END_TOKEN, IMAGE_START_TOKEN, IMAGE_TOKEN
from rewarddance.rewards.loading import load_reward_model
from tests.tiny_generators import tiny_generator_folder
from tests.tiny_models import save_tiny_model

PROMPTS = (
    "a red square left of two blue circles",
    "a photo of a dog in the rain",
    "three yellow stars above one purple hexagon",
    "a green triangle and a cat at night",
)
LEARNING_RATE = 1e-5
MIB = 2**20


@dataclass(frozen=True)
class Task:
    """What both routes do.

    Attributes:
        generator: Folder of a Stable Diffusion 3 pipeline.
        judge: Folder of an InternVL model.
        batch: Pictures in a step.
        side: Height and width of a picture.
        denoising_steps: Of the whole path.
        reward_step: Where the gradient is kept.
        guidance: Of the generator.
    """

    generator: Path
    judge: Path
    batch: int
    side: int
    denoising_steps: int
    reward_step: int
    guidance: float

    @property
    def prompts(self) -> list[str]:
        """One a picture."""
        return [PROMPTS[place % len(PROMPTS)] for place in range(self.batch)]

    @property
    def noise(self) -> torch.Tensor:
        """What the path begins with."""
        decoder = json.loads((self.generator / "vae" / "config.json").read_text(encoding="utf-8"))
        side = self.side // 2 ** (len(decoder["block_out_channels"]) - 1)
        shape = self.batch, decoder["latent_channels"], side, side
        return torch.randn(shape, generator=torch.Generator().manual_seed(2))

    @property
    def reference_pixels(self) -> torch.Tensor:
        """What the pictures are judged against."""
        return torch.rand(self.batch, 3, self.side, self.side, generator=torch.Generator().manual_seed(1))


class Route(Protocol):
    """One implementation of the step."""

    network: torch.nn.Module

    def rewards(self, noise: torch.Tensor) -> torch.Tensor:
        """Log-odds of each picture, with gradient down to the network."""


class Ours:
    """The package's own pieces."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.size = ImageSize(task.side, task.side)
        self.generator = load_generator(task.generator, "cpu", "float32")
        self.network = self.generator.module
        self.judge = load_reward_model(task.judge, "cpu", "float32")
        self.judge.backbone.engine.is_repeatable = True  # as in a run

    def rewards(self, noise: torch.Tensor) -> torch.Tensor:
        """See `Route`."""
        task = self.task
        conditions = self.generator.encode(task.prompts, self.size)
        sigmas = self.generator.sigmas(task.denoising_steps, self.size)
        latents = sample(self.generator, conditions, noise, sigmas, task.guidance, stop=task.reward_step)
        sigma = sigmas[task.reward_step].expand(task.batch)
        velocity = self.generator.velocity(latents, sigma, conditions, task.guidance)
        pixels = self.generator.decode(x0_prediction(latents, velocity, sigma), self.size)
        return self.judge.reward(pixels, task.prompts, task.reference_pixels)


class Plain:
    """What one writes with diffusers and transformers alone."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.pipeline = diffusers.StableDiffusion3Pipeline.from_pretrained(task.generator)
        self.network = self.pipeline.transformer
        self.judge = transformers.InternVLForConditionalGeneration.from_pretrained(task.judge).eval()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(task.judge)
        self.processor = transformers.AutoImageProcessor.from_pretrained(task.judge, backend="pil")
        for name in ("vae", "text_encoder", "text_encoder_2", "text_encoder_3"):
            getattr(self.pipeline, name).requires_grad_(False)
        self.judge.requires_grad_(False)
        # Both routes must ask in the same words; which tokens count as yes is looked up once, as ours does.
        record = load_reward_model(task.judge, "cpu", "float32").record
        self.criteria = record.instruction.text
        self.yes, self.no = list(record.answers.yes_ids), list(record.answers.no_ids)

    def rewards(self, noise: torch.Tensor) -> torch.Tensor:
        """See `Route`."""
        latents, velocity, sigma = self.denoised(noise)
        config = self.pipeline.vae.config
        decoded = self.pipeline.vae.decode(
            (latents - sigma * velocity) / config.scaling_factor + config.shift_factor, return_dict=False
        )[0]
        return self.judged((decoded / 2 + 0.5).clamp(0, 1))

    def denoised(self, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The pipeline's loop, the last velocity with gradient."""
        with torch.no_grad():
            prompt, negative, pooled, negative_pooled = self.pipeline.encode_prompt(
                self.task.prompts, None, None, negative_prompt=[""] * self.task.batch
            )
        tokens, summary = torch.cat([negative, prompt]), torch.cat([negative_pooled, pooled])
        scheduler = self.pipeline.scheduler
        scheduler.set_timesteps(self.task.denoising_steps)
        latents = noise
        for place, timestep in enumerate(scheduler.timesteps[: self.task.reward_step + 1]):
            with torch.set_grad_enabled(place == self.task.reward_step):
                both = self.network(
                    hidden_states=torch.cat([latents, latents]),
                    timestep=timestep.expand(2 * self.task.batch),
                    encoder_hidden_states=tokens,
                    pooled_projections=summary,
                    return_dict=False,
                )[0]
                without, with_prompt = both.chunk(2)
                velocity = without + self.task.guidance * (with_prompt - without)
            if place < self.task.reward_step:
                latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
        return latents, velocity, scheduler.sigmas[self.task.reward_step]

    def judged(self, pixels: torch.Tensor) -> torch.Tensor:
        """Both orders in one batch; log-odds of yes from logits of every token over the whole vocabulary."""
        candidates, references = self.processed(pixels), self.processed(self.task.reference_pixels)
        shown = [*zip(references, candidates, strict=True), *zip(candidates, references, strict=True)]
        texts = [self.question(prompt) for prompt in self.task.prompts] * 2
        batch = self.tokenizer(texts, padding=True, padding_side="left", return_tensors="pt")
        # Positions are not given by every caller; without them padding would move the tokens of short rows.
        positions = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        logits = self.judge(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            position_ids=positions,
            pixel_values=torch.stack([picture for pair in shown for picture in pair]),
        ).logits
        log_odds = logits[:, -1, self.yes].logsumexp(-1) - logits[:, -1, self.no].logsumexp(-1)
        forward, backward = log_odds.chunk(2)
        return (forward - backward) / 2

    def processed(self, pixels: torch.Tensor) -> torch.Tensor:
        """The image processor's resize and normalisation, differentiable."""
        side = self.processor.size["height"]
        # Pillow clips after each axis; clipping once instead changes the gradient by a few percent.
        for shape in ((pixels.shape[-2], side), (side, side)):
            pixels = functional.interpolate(pixels, shape, mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = (
            torch.tensor(values)[:, None, None] for values in (self.processor.image_mean, self.processor.image_std)
        )
        return (pixels - mean) / std

    def question(self, prompt: str) -> str:
        """The question in the chat format, with its image tokens."""
        image = IMAGE_START_TOKEN + IMAGE_TOKEN * self.judge.config.image_seq_length + IMAGE_END_TOKEN
        text = (
            f"{self.criteria}\nPrompt: {prompt}\nImage 1: {image}\n\nImage 2: {image}\n"
            "\nIs image 2 better than image 1? Answer yes or no."
        )
        turn = [{"role": "user", "content": text}]
        rendered: str = self.tokenizer.apply_chat_template(
            turn, chat_template=CHAT_TEMPLATE, add_generation_prompt=True, tokenize=False
        )
        return rendered


ROUTES: dict[str, type[Ours] | type[Plain]] = {"ours": Ours, "plain": Plain}


class Step:
    """A route with its optimizer."""

    def __init__(self, route: Route, task: Task) -> None:
        self.route = route
        route.network.requires_grad_(True)
        self.optimizer = torch.optim.AdamW(route.network.parameters(), lr=LEARNING_RATE, fused=True)
        self.noise = task.noise

    def gradient(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Rewards, and the gradient of the loss by all parameters."""
        self.optimizer.zero_grad(set_to_none=True)
        rewards = self.route.rewards(self.noise)
        refl_loss(rewards).mean().backward()
        parameters = list(self.route.network.parameters())
        slopes = [torch.zeros_like(one) if one.grad is None else one.grad for one in parameters]
        return rewards.detach(), torch.cat([slope.flatten() for slope in slopes])

    def seconds(self) -> tuple[float, float]:
        """Of the clock and of this process's CPU time, for one whole step."""
        clock, cpu = time.perf_counter(), time.process_time()
        self.optimizer.zero_grad(set_to_none=True)
        refl_loss(self.route.rewards(self.noise)).mean().backward()
        self.optimizer.step()
        return time.perf_counter() - clock, time.process_time() - cpu


def check(steps: dict[str, Step]) -> dict[str, float]:
    """Both routes compute the same thing; gives how far they are apart."""
    (rewards, slope), (other_rewards, other_slope) = (steps[name].gradient() for name in ("ours", "plain"))
    apart = {
        "reward": (rewards - other_rewards).abs().max().item(),
        "gradient": ((slope - other_slope).norm() / other_slope.norm()).item(),
    }
    if apart["reward"] > 1e-4 or apart["gradient"] > 1e-3:
        raise SystemExit(f"the routes do not compute the same step, the comparison would not be fair: {apart}")
    return apart


def resident_peak() -> int:
    """Highest resident size since the last reset, in bytes (Linux)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


def measure_memory(name: str, task: Task, steps: int) -> dict[str, float]:
    """Run one route alone and report what it held."""
    step = Step(ROUTES[name](task), task)
    # Start counting again: loading may have held more than any step.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = resident_peak()
    for _ in range(steps):
        step.seconds()
    peak = resident_peak()
    return {"peak_mib": peak / MIB, "rise_mib": (peak - before) / MIB}


def measure_time(task: Task, turns: int) -> dict[str, Any]:
    """Both routes in turns, after one step each that is not counted."""
    steps = {name: Step(route(task), task) for name, route in ROUTES.items()}
    apart = check(steps)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for turn in range(turns + 1):
        for name, step in steps.items():
            seconds = step.seconds()
            if turn > 0:
                taken[name].append(seconds)
    wall, cpu = (
        {name: statistics.median(one[clock] for one in values) for name, values in taken.items()} for clock in (0, 1)
    )
    return {
        "difference": apart,
        "seconds_per_step": wall,
        "cpu_seconds_per_step": cpu,
        "speed_up": wall["plain"] / wall["ours"],
        "speed_up_of_cpu_time": cpu["plain"] / cpu["ours"],
    }


def memory_of(name: str, judge: Path, options: argparse.Namespace, arguments: Sequence[str]) -> dict[str, float]:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.refl_step", *arguments]
    command += ["--generator", str(options.generator), "--judge", str(judge), "--memory-of", name]
    finished = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(finished.stdout.splitlines()[-1])
    return found


def measure(judge: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Time and memory with one judge."""
    sizes = ("batch", "side", "denoising_steps", "reward_step", "guidance", "turns")
    arguments = [f"--{name.replace('_', '-')}={getattr(options, name)}" for name in sizes]
    memory = {name: memory_of(name, judge, options, arguments) for name in ROUTES}
    return {
        **measure_time(task_of(judge, options), options.turns),
        "memory": memory,
        "memory_ratio": memory["ours"]["peak_mib"] / memory["plain"]["peak_mib"],
        "memory_rise_ratio": memory["ours"]["rise_mib"] / memory["plain"]["rise_mib"],
    }


def task_of(judge: Path, options: argparse.Namespace) -> Task:
    """What the options ask for."""
    sizes = options.batch, options.side, options.denoising_steps, options.reward_step, options.guidance
    return Task(options.generator, judge, *sizes)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generator", type=Path, help="folder of an SD3 pipeline; otherwise a tiny random one")
    parser.add_argument("--judge", type=Path, help="folder of an InternVL model; otherwise a tiny random one")
    parser.add_argument("--vocabularies", type=int, nargs="*", default=[0, 32_768], help="head widths; 0 for its own")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--side", type=int, default=64, help="of a picture, in pixels")
    parser.add_argument("--denoising-steps", type=int, default=28)
    parser.add_argument("--reward-step", type=int, default=24)
    parser.add_argument("--guidance", type=float, default=4.5)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--memory-of", choices=sorted(ROUTES), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parsed()
    transformers.logging.set_verbosity_error()
    diffusers.utils.logging.set_verbosity_error()
    if options.memory_of:
        print(json.dumps(measure_memory(options.memory_of, task_of(options.judge, options), options.turns)))
        return
    results: dict[str, Any] = {
        "machine": f"{platform.platform()}, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads",
        "versions": {name: version(name) for name in ("torch", "transformers", "diffusers")},
        "command": " ".join(sys.argv),
        "runs": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        options.generator = options.generator or tiny_generator_folder("sd3", work / "generator")
        base = options.judge or save_tiny_model("internvl", work / "judge")
        for vocabulary in options.vocabularies:
            judge = base if vocabulary == 0 else widened(base, work / f"judge-{vocabulary}", vocabulary)
            results["runs"][f"vocabulary {vocabulary or 'of the base'}"] = measure(judge, options)
    print(json.dumps(results, indent=2))
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
