"""Runs training runs in forked children, stops them at named points, kills them there, and lets them resume.

Importing torch takes seconds and a child that is forked does not import it again. Started by `test_kill.py` with a
folder and, on standard input, a JSON list of stories: `{"name", "stops": [[point, signal], ...], "mutant"}`. For each
it prints one JSON line with a digest of everything that training leaves behind.
"""

import hashlib
import json
import os
import shutil
import signal
import sys
import traceback
from pathlib import Path

import safetensors.torch
import torch

from rewarddance.config.training import TrainConfig
from rewarddance.rewards.loading import new_reward_model
from rewarddance.training import checkpoints, run
from rewarddance.training.pause_points import PAUSE_VARIABLE
from rewarddance.training.reward_model import train_reward_model
from tests.tiny_models import save_tiny_model
from tests.training.drawn_comparisons import draw_comparisons

COMPARISONS, HELD_OUT = 16, 4


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    comparisons = draw_comparisons(folder / "media", COMPARISONS + HELD_OUT)
    base = save_tiny_model("internvl", folder / "base")
    for story in json.load(sys.stdin):
        out = folder / story["name"]
        ends = []
        for point, name in [*story["stops"], [None, None]]:
            ends.append(_in_child(base, comparisons, out, bool(ends), point, name, story.get("mutant")))
            if name == "KILL" and story.get("mutant") in {"unstaged", "unstaged, unchecked"}:
                _as_if_unstaged(out / "checkpoints")
        digest = _digest(out) if ends[-1] == "exit 0" else None
        print(json.dumps({"name": story["name"], "ends": ends, "digest": digest}), flush=True)


def _in_child(base, comparisons, out, resume, point, name, mutant):
    child = os.fork()
    if child == 0:
        _train(base, comparisons, out, resume, point, mutant)
    _, status = os.waitpid(child, os.WUNTRACED)
    if point is not None:
        if not os.WIFSTOPPED(status):
            raise SystemExit(f"{out.name}: the run ended ({status}) without coming to {point}")
        os.kill(child, getattr(signal, f"SIG{name}"))
        os.kill(child, signal.SIGCONT)
        _, status = os.waitpid(child, 0)
    return f"exit {os.WEXITSTATUS(status)}" if os.WIFEXITED(status) else f"signal {os.WTERMSIG(status)}"


def _train(base, comparisons, out, resume, point, mutant):
    os.environ.pop(PAUSE_VARIABLE, None)
    if point is not None:
        os.environ[PAUSE_VARIABLE] = point
    code = 0
    try:
        _switch_off(mutant)
        config = TrainConfig.model_validate(
            {
                "model": {"base": str(base), "instruction": "none", "lora": {"dropout": 0.2, "rank": 4}},
                "data": {"train": "unused"},
                "optimizer": {"learning_rate": 1e-2},
                "batch_size": 2,
                "gradient_accumulation": 2,
                "orders": "random",
                "epochs": 2,
                "save_every": 2,
                "evaluate_every": 3,
                "out": str(out),
            }
        )
        model = new_reward_model(base, "pairwise", instruction="none")
        train_reward_model(config, model, comparisons[:COMPARISONS], comparisons[COMPARISONS:], resume=resume)
    except BaseException:
        (out / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
        code = 1
    os._exit(code)


def _switch_off(mutant):
    """Take one protection away, to see that the test notices."""
    if mutant in {"unchecked", "unstaged, unchecked"}:
        checkpoints.verify_manifest = lambda folder: []
    if mutant == "optimizer forgotten":
        run.restore_optimizer = lambda *_: None
    if mutant == "order forgotten":
        batches = run.prepared_batches
        run.prepared_batches = lambda *args, start, stop, **others: batches(*args, start=0, stop=stop - start, **others)


def _as_if_unstaged(folder: Path) -> None:
    """What a writer without a staging folder would have left at this moment."""
    for staged in folder.glob(".staged-*"):
        final = folder / staged.name.removeprefix(".staged-")
        shutil.rmtree(final, ignore_errors=True)
        staged.rename(final)


def _digest(out: Path) -> str:
    """Finished weights, last checkpoint with optimizer and data order, and every logged figure but the timing."""
    digest = hashlib.sha256()
    last = max((out / "checkpoints").glob("step-*"))
    files = [out / "model/model.safetensors", last / "weights.safetensors", last / "optimizer.safetensors"]
    for file in files:
        for name, tensor in sorted(safetensors.torch.load_file(file).items()):
            digest.update(name.encode() + tensor.numpy().tobytes())
    digest.update((last / "progress.json").read_bytes())
    for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        del row["comparisons_per_second"]
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
