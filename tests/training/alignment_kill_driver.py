"""Runs alignment runs in forked children, stops them at named points, kills them there, and lets them resume.

Importing torch takes seconds and a child that is forked does not import it again. Started by
`test_alignment_kill.py` with a folder and, on standard input, a JSON list of stories: `{"name", "method", "lora",
"stops": [[point, signal], ...], "mutant"}`. For each it prints one JSON line with a digest of everything that the run
leaves behind.
"""

import hashlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path

import safetensors.torch
import torch

from rewarddance.config.guard import GuardConfig
from rewarddance.training.alignment import align
from rewarddance.training.alignment_run import AlignmentRun
from rewarddance.training.guard import Guard
from rewarddance.training.pause_points import PAUSE_VARIABLE
from rewarddance.training.policy import Policy
from rewarddance.training.reward_signal import ModelReward, RewardSignal
from tests.training.stand_in_generator import (
    AT_ONCE,
    SIDE,
    StandInGenerator,
    align_config,
    darkness,
    pixel_reward,
    redness,
    rows_of,
)


class RedderThan:
    """A reward model that compares with a reference image."""

    def reward(self, pixels, prompts, references, *_):
        # Not a difference alone, whose gradient would forget the reference.
        return torch.tanh(redness(pixels, prompts) - redness(torch.stack(list(references)), prompts))


class MeanReferences:
    """A store whose one picture is what the averaged policy painted; it lies on disk like a real one."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def best(self, prompt, count=None):
        return (safetensors.torch.load_file(self._path)["picture"],)

    def lacking(self, prompts):
        return ()

    def get(self, prompt):
        return None


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    for story in json.load(sys.stdin):
        out = folder / story["name"]
        ends = []
        for point, name in [*story["stops"], [None, None]]:
            ends.append(_in_child(story, out, bool(ends), point, name))
        digest = _digest(out / "run") if ends[-1] == "exit 0" else None
        print(json.dumps({"name": story["name"], "ends": ends, "digest": digest}), flush=True)


def _in_child(story, out, resume, point, name):
    child = os.fork()
    if child == 0:
        _align(story, out, resume, point)
    _, status = os.waitpid(child, os.WUNTRACED)
    if point is not None:
        if not os.WIFSTOPPED(status):
            error = (out / "error.txt").read_text(encoding="utf-8") if (out / "error.txt").exists() else ""
            raise SystemExit(f"{out.name}: the run ended ({status}) without coming to {point}\n{error}")
        os.kill(child, getattr(signal, f"SIG{name}"))
        os.kill(child, signal.SIGCONT)
        _, status = os.waitpid(child, 0)
    return f"exit {os.WEXITSTATUS(status)}" if os.WIFEXITED(status) else f"signal {os.WTERMSIG(status)}"


def _align(story, out, resume, point):
    os.environ.pop(PAUSE_VARIABLE, None)
    if point is not None:
        os.environ[PAUSE_VARIABLE] = point
    code = 0
    try:
        _switch_off(story.get("mutant"))
        settings = {
            "generator": {"path": "unused", "lora": story["lora"]},
            "optimizer": {"learning_rate": 5e-3, "warmup_share": 0.3, "decay": "cosine"},
            "regulariser": {"velocity_weight": 0.1},
            "references": {"refresh_every": 4, "ema_decay": 0.5},
            "optimizer_steps": 8,
            "evaluate_every": 4,
            "samples_every": 4,
            "evaluation_prompts": 2,
        }
        rewards = [ModelReward("red", RedderThan()), pixel_reward("dark", darkness, 0.5)]
        align(
            align_config(out, story["method"], **settings),
            StandInGenerator(),
            RewardSignal(rewards, patience=AT_ONCE),
            guard=Guard(GuardConfig(), {"dark": lambda pixels, prompts: darkness(pixels, prompts).tolist()}),
            references=lambda prompts: [(torch.zeros(3, SIDE, SIDE),)] * len(prompts),
            refresh_references=lambda generator, step, prompts: _painted(out, generator, step),
            resume=resume,
        )
    except BaseException:
        (out / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
        code = 1
    os._exit(code)


def _painted(out, generator, step):
    path = out / f"reference-{step}.safetensors"
    if not path.exists():
        conditions, latents = generator.encode(["a red thing"]), generator.initial_noise([1])
        with torch.no_grad():
            picture = generator.decode(latents - generator.velocity(latents, torch.ones(1), conditions))[0]
        safetensors.torch.save_file({"picture": picture}, path)
    return MeanReferences(path)


def _switch_off(mutant):
    """Take one protection away, to see that the test notices."""
    restore = Policy.restore
    if mutant == "averages forgotten":
        Policy.restore = lambda self, state, with_averages=True: restore(self, state, with_averages=False)
    if mutant == "reward statistics forgotten":
        RewardSignal.load_state_dict = lambda self, state: None
    if mutant == "guard forgotten":
        Guard.load_state_dict = lambda self, state: None
    if mutant == "references forgotten":
        AlignmentRun.restore = _with_first_references(AlignmentRun.restore)


def _with_first_references(restore):
    def forgetful(run):
        first = run.bench.references
        restore(run)
        run.bench.references = first

    return forgetful


def _digest(run: Path) -> str:
    """Finished weights, last checkpoint with optimizer, averages, guard and reward statistics, logs, pictures."""
    digest = hashlib.sha256()
    last = max((run / "checkpoints").glob("step-*"))
    tensors = [run / "generator/transformer/diffusion_pytorch_model.safetensors"]
    for file in [*tensors, last / "weights.safetensors", last / "optimizer.safetensors"]:
        for name, tensor in sorted(safetensors.torch.load_file(file).items()):
            digest.update(name.encode() + tensor.numpy().tobytes())
    for file in [last / "progress.json", *sorted(run.parent.glob("reference-*")), *sorted(run.glob("samples/*/*"))]:
        digest.update(file.name.encode() + file.read_bytes())
    for name in ("metrics.jsonl", "evaluations.jsonl", "observations.jsonl"):
        for row in rows_of(run / name):
            row.pop("images_per_second", None)
            digest.update(json.dumps(row).encode())
    return digest.hexdigest()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
