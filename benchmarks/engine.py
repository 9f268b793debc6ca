"""The scoring engine beside plain transformers: same weights, same questions, same run.

Plain is what one writes with transformers alone: processor-equivalent inputs, each image of each comparison through
the vision tower, logits of all tokens over the whole vocabulary; one comparison at a time, or eight in a left-padded
batch. Every ordered pair of a tournament is one comparison. Preprocessing is left out on both sides. A comparison
costs plain transformers the same whoever is compared, so its time is measured on a few and multiplied; the engine
always does the whole tournament, with nothing kept from before. Both must give the same log-odds, or nothing is
reported. Run it with

    python -m benchmarks.engine --json docs/results/performance.json --page docs/performance.md

`--family`, `--ratio`, `--side` and `--candidates` make it shorter, and with `--add` parts make a whole; `--full` takes
the published sizes (on a GPU).
"""

import argparse
import ctypes
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import permutations, takewhile
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.engine_models import FULL, SMALL, Proportions, build
from benchmarks.engine_page import fill_page, page_tables
from rewarddance.rewards.answers import resolve_answer_tokens
from rewarddance.rewards.backbones.protocol import AttentionMode, EncodedQuestion, Picture
from rewarddance.rewards.backbones.vision_language import VisionLanguageBackbone
from rewarddance.rewards.paradigm import AnswerReader
from rewarddance.rewards.questions import Medium, QuestionWording, comparison_question

PROMPT = "a red square left of two blue circles"
CRITERIA = "Judge text-image alignment, structure and aesthetics."
BATCH = 8
TOLERANCE = 1e-4


def pictures(backbone: VisionLanguageBackbone, count: int, side: int, seed: int = 0) -> list[Picture]:
    rng = torch.Generator().manual_seed(seed)
    return [
        picture
        for _ in range(count)
        for picture in backbone.pictures_from_pixels(torch.rand(1, 3, side, side, generator=rng))
    ]


def question(backbone: VisionLanguageBackbone, first: Picture, second: Picture) -> EncodedQuestion:
    media = [Medium(str(number), (one,)) for number, one in enumerate((first, second))]
    return backbone.encode(comparison_question(QuestionWording(), CRITERIA, PROMPT, *media).parts)


def copied(one: EncodedQuestion) -> EncodedQuestion:
    """The same question with images of its own: plain transformers does not know that it has seen them."""
    shown = tuple(Picture(picture.pixel_values, picture.tokens, picture.grid) for picture in one.pictures)
    return EncodedQuestion(one.token_ids, shown)


class Routes:
    """Both ways from questions to log-odds."""

    def __init__(self, backbone: VisionLanguageBackbone) -> None:
        self.backbone = backbone
        self.reader = AnswerReader(backbone, resolve_answer_tokens(backbone.tokenizer))

    def plain(self, questions: Sequence[EncodedQuestion], batch: int) -> torch.Tensor:
        """Whole questions, whole logits."""
        labels = torch.tensor(self.reader.answers.label_ids, device=self.backbone.model.device)
        yes = len(self.reader.answers.yes_ids)
        found = []
        for start in range(0, len(questions), batch):
            inputs = self.backbone.collate([copied(one) for one in questions[start : start + batch]])
            inputs = inputs.to(self.backbone.model.device, self.backbone.model.dtype)
            logits = self.backbone.model(**inputs.inputs, use_cache=False).logits[:, -1][:, labels].float()
            found.append(logits[:, :yes].logsumexp(-1) - logits[:, yes:].logsumexp(-1))
        return torch.cat(found)

    def engine(self, questions: Sequence[EncodedQuestion], is_fresh: bool = True) -> torch.Tensor:
        """The engine, without what earlier calls have left unless told otherwise."""
        if is_fresh:
            self.backbone.engine.features.clear()
            self.backbone.engine.states.clear()
        return self.reader.log_odds(self.backbone.answer_states(questions))


class Clock:
    """Of the wall, or of this process's CPU time, which other programs on the machine move less."""

    read: Callable[[], float] = time.perf_counter


def seconds(work: Callable[[], Any], turns: int) -> float:
    """Median over turns."""
    taken = []
    for _ in range(turns):
        _wait()
        start = Clock.read()
        work()
        _wait()
        taken.append(Clock.read() - start)
    return statistics.median(taken)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def product_rate(device: str, dtype: torch.dtype) -> float:
    """Operations per second of a matrix product as large as the models' own; the best of several."""
    side = 8192 if device == "cuda" else 1024
    one, other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / min(seconds(lambda: one @ other, 1) for _ in range(10))


def tournament(
    routes: Routes, count: int, side: int, plain_seconds: dict[str, float], checked: int, turns: int
) -> dict[str, Any]:
    """One tournament in both attention modes, and what it takes plain transformers both ways.

    Args:
        routes: To the log-odds.
        count: Candidates.
        side: Of their pictures, in pixels.
        plain_seconds: Of one comparison by plain transformers, `batched` and `one_by_one`.
        checked: Comparisons whose log-odds must be the same by both routes.
        turns: Tournaments, of which the median counts.
    """
    backbone = routes.backbone
    questions = [question(backbone, *pair) for pair in permutations(pictures(backbone, count, side), 2)]
    result: dict[str, Any] = {"candidates": count, "side": side, "comparisons": len(questions)}
    result |= {f"plain_{name}_seconds": taken * len(questions) for name, taken in plain_seconds.items()}
    modes: tuple[tuple[str, AttentionMode], ...] = (("exact", "causal"), ("block", "blocks"))
    for name, mode in modes:
        backbone.attention = mode
        apart = routes.plain(questions[:checked], BATCH)
        found: list[torch.Tensor] = []
        taken = seconds(lambda found=found: found.append(routes.engine(questions)), turns)  # type: ignore[misc]
        difference = (found[0][:checked] - apart).abs().max().item()
        if backbone.model.dtype == torch.float32 and difference > TOLERANCE:
            raise SystemExit(
                f"the two routes give other log-odds, the comparison would not be fair: {mode}, {difference}"
            )
        ratio = result["plain_batched_seconds"] / taken
        result |= {f"{mode}_seconds": taken, f"{mode}_difference": difference, f"{name}_ratio": ratio}
    backbone.attention = "causal"
    return result


def plain_comparison(routes: Routes, side: int, count: int, turns: int) -> dict[str, float]:
    """Seconds that one comparison takes plain transformers, in batches and alone."""
    shown = pictures(routes.backbone, 4, side)
    sample = ([question(routes.backbone, *pair) for pair in permutations(shown, 2)] * count)[:count]
    return {
        name: seconds(lambda batch=batch: routes.plain(sample, batch), turns) / count  # type: ignore[misc]
        for name, batch in (("batched", BATCH), ("one_by_one", 1))
    }


def against_one_reference(routes: Routes, side: int, count: int, turns: int) -> dict[str, float]:
    """A list of candidates against one reference image, both orders; and one candidate, fresh or against a kept one."""
    backbone = routes.backbone
    reference, *candidates = pictures(backbone, count + 1, side)

    def asked(candidate: Picture, orders: int) -> list[EncodedQuestion]:
        pairs = [(reference, candidate), (candidate, reference)][:orders]
        return [question(backbone, *pair) for pair in pairs]

    both = [one for candidate in candidates for one in asked(candidate, 2)]
    sample = both[: 2 * BATCH]
    result = {
        "candidates": float(count),
        "engine_seconds": seconds(lambda: routes.engine(both), turns),
        "plain_batched_seconds": len(both) / len(sample) * seconds(lambda: routes.plain(sample, BATCH), turns),
    }
    modes: tuple[AttentionMode, ...] = ("causal", "blocks")
    for mode in modes:
        backbone.attention = mode
        for orders in (1, 2):
            fresh = seconds(lambda orders=orders: routes.engine(asked(candidates[0], orders)), turns)  # type: ignore[misc]
            routes.engine(asked(candidates[0], orders))
            kept = [
                seconds(lambda one=one, orders=orders: routes.engine(asked(one, orders), is_fresh=False), 1)  # type: ignore[misc]
                for one in candidates[1 : 1 + max(turns, 3)]
            ]
            result[f"kept_reference_share_{mode}_{orders}"] = statistics.median(kept) / fresh
    backbone.attention = "causal"
    return result


def distinct_pairs(
    routes: Routes, model: Proportions, side: int, count: int, turns: int, rate: float
) -> dict[str, Any]:
    """Throughput with nothing to share but the head of the question, as a share of the matrix-product rate."""
    shown = pictures(routes.backbone, 2 * count, side)
    questions = [question(routes.backbone, *pair) for pair in zip(shown[::2], shown[1::2], strict=True)]
    taken = seconds(lambda: routes.engine(questions), turns)
    useful = useful_operations(routes.backbone, model, questions)
    return {
        "comparisons": count,
        "seconds": taken,
        "useful_operations": useful,
        "matrix_product_rate": rate,
        "share_of_peak": useful / taken / rate,
    }


def useful_operations(
    backbone: VisionLanguageBackbone, model: Proportions, questions: Sequence[EncodedQuestion]
) -> float:
    """Operations that no implementation can leave out: matrix products of the towers, and attention that is read.

    The beginning that all questions share counts once; of the last layer, only keys, values and the answer count.
    """
    vision, language = model.vision, model.language
    patches = [_patches(backbone, picture) for one in questions for picture in one.pictures]
    tower = 4 * vision.width**2 + 2 * vision.width * vision.inner
    total = sum(2.0 * vision.depth * (n * tower + 2 * n * n * vision.width) for n in patches)
    first_image = questions[0].token_ids.index(_image_token(backbone))
    columns = zip(*(one.token_ids[:first_image] for one in questions), strict=False)
    shared = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
    heads = language.heads * language.head_width
    keys = language.width * 2 * language.key_heads * language.head_width
    layer = 2 * language.width * heads + keys + 3 * language.width * language.inner
    lengths = [len(one.token_ids) for one in questions]
    read = shared + sum(length - shared for length in lengths)
    pairs = sum((length**2 - shared**2) / 2 for length in lengths) + shared**2 / 2
    total += 2.0 * (language.depth - 1) * (read * layer + 2 * pairs * heads)
    total += 2.0 * (read * keys + len(questions) * (layer + 2 * max(lengths) * heads))
    return total


def reward_gradient(routes: Routes, side: int, count: int, turns: int) -> dict[str, float]:
    """Rewards of live pixels against still reference images in both orders, with the gradient by the pixels.

    This is what a ReFL step asks of the reward model. Beside it, whole questions in one batch, in which an image that
    is shown twice is encoded once: what the step did before there was an engine.
    """
    backbone, device = routes.backbone, routes.backbone.model.device
    rng = torch.Generator().manual_seed(4)
    live, still = (torch.rand(count, 3, side, side, generator=rng).to(device) for _ in range(2))

    def slope(is_engine: bool) -> torch.Tensor:
        pixels = live.clone().requires_grad_(True)
        pairs = [*zip(backbone.pictures_from_pixels(still), backbone.pictures_from_pixels(pixels), strict=True)]
        asked = [question(backbone, *shown) for pair in pairs for shown in (pair, pair[::-1])]
        if is_engine:
            hidden = backbone.answer_states(asked)
        else:
            hidden = backbone.answer_hidden(backbone.collate(asked).to(device, backbone.model.dtype))
        log_odds = routes.reader.log_odds(hidden)
        (found,) = torch.autograd.grad((log_odds[::2] - log_odds[1::2]).sum(), pixels)
        return found

    with torch.enable_grad():
        ours, whole = slope(True), slope(False)
        result = {"difference": ((ours - whole).norm() / whole.norm()).item()}
        # The second time the reference images are known, as in every step of a run but the first.
        result["engine_seconds"] = seconds(lambda: slope(True), turns)
        result["whole_seconds"] = seconds(lambda: slope(False), turns)
    return result | {"ratio": result["whole_seconds"] / result["engine_seconds"]}


def _image_token(backbone: VisionLanguageBackbone) -> int:
    return int(backbone.tokenizer.convert_tokens_to_ids(backbone.layout.placeholder))


def _patches(backbone: VisionLanguageBackbone, picture: Picture) -> int:
    pixels = picture.pixel_values
    return len(pixels) if backbone.family != "internvl" else len(pixels) * (pixels.shape[-1] // 14) ** 2


def memory(routes: Routes, side: int, count: int) -> dict[str, float]:
    """Highest memory during a tournament over the memory before it, in MiB; one comparison at a time beside it."""
    questions = [question(routes.backbone, *p) for p in permutations(pictures(routes.backbone, count, side), 2)]
    works: dict[str, Callable[[], Any]] = {
        "one_by_one": lambda: routes.plain(questions[:4], 1),
        "batched": lambda: routes.plain(questions[: 2 * BATCH], BATCH),
        "engine": lambda: routes.engine(questions),
    }
    return {name: _rise(work) for name, work in works.items()}


def _rise(work: Callable[[], Any]) -> float:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    ctypes.CDLL(None).malloc_trim(0)  # what the work before has left is not there for this one to use again
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _resident("VmRSS")
    work()
    return (_resident("VmHWM") - before) / 1024


def _resident(name: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line for line in status.splitlines() if line.startswith(name)).split()[1])


def measure(options: argparse.Namespace) -> dict[str, Any]:
    device, dtype = options.device, torch.bfloat16 if options.device == "cuda" else torch.float32
    rate = product_rate(device, dtype)
    runs: list[dict[str, Any]] = []
    for family in options.family:
        for ratio in options.ratio:
            model = (FULL if options.full else SMALL)[family][ratio]
            for side in options.side:
                with tempfile.TemporaryDirectory() as folder:
                    routes = Routes(build(family, model, side, Path(folder), device, dtype))
                    runs += [_run(routes, model, family, ratio, side, rate, options)]
                print(json.dumps(runs[-1]), flush=True)
    return {
        "machine": _machine(device),
        "clock": options.clock,
        "matrix_product_rate": rate,
        "runs": runs,
        "summary": _summary(runs),
    }


def _run(
    routes: Routes, model: Proportions, family: str, ratio: str, side: int, rate: float, options: argparse.Namespace
) -> dict[str, Any]:
    plain = plain_comparison(routes, side, options.plain_comparisons, options.turns)
    result: dict[str, Any] = {
        "family": family,
        "ratio": ratio,
        "side": side,
        "parameters": sum(one.numel() for one in routes.backbone.model.parameters()),
        "tournaments": [
            tournament(routes, count, side, plain, options.checked, options.turns) for count in options.candidates
        ],
    }
    if not options.tournaments_only:
        result |= {
            "list": against_one_reference(routes, side, options.list, options.turns),
            "reward_gradient": reward_gradient(routes, side, 4, options.turns),
            "distinct": distinct_pairs(routes, model, side, options.pairs, options.turns, rate),
            "memory_rise_mib": memory(routes, side, max(options.candidates)),
        }
    return result


def _summary(runs: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """At the largest side: the slower family's ratio in the largest tournament, and the lowest share of the rate."""
    summary: dict[str, float | None] = {}
    side = max(run["side"] for run in runs)
    for name in ("exact", "block"):
        for ratio in ("1b", "8b"):
            last = [run["tournaments"][-1] for run in runs if run["ratio"] == ratio and run["side"] == side]
            summary[f"{name}_tournament_{ratio}_ratio"] = min((one[f"{name}_ratio"] for one in last), default=None)
    shares = [run["distinct"]["share_of_peak"] for run in runs if run["side"] == side and "distinct" in run]
    summary["share_of_peak"] = min(shares, default=None)
    return summary


def _with_earlier(earlier: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Earlier figures of the same machine with the new ones beside them or in their place."""
    if earlier["machine"] != new["machine"]:
        raise SystemExit("--add: the figures of the JSON file are another machine's")
    runs = {_key(run): run for run in earlier["runs"]}
    for run in new["runs"]:
        before = runs.get(_key(run), {})
        tournaments = {one["candidates"]: one for one in (*before.get("tournaments", ()), *run["tournaments"])}
        runs[_key(run)] = {**before, **run, "tournaments": [tournaments[count] for count in sorted(tournaments)]}
    ordered = [runs[key] for key in sorted(runs)]
    return {**new, "runs": ordered, "summary": _summary(ordered)}


def _key(run: dict[str, Any]) -> tuple[str, str, int]:
    return run["family"], run["ratio"], run["side"]


def _machine(device: str) -> dict[str, Any]:
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--family", nargs="+", default=["internvl", "qwen3_vl"])
    parser.add_argument("--ratio", nargs="+", default=["1b", "8b"])
    parser.add_argument("--side", nargs="+", type=int, default=[224, 448])
    parser.add_argument("--candidates", nargs="+", type=int, default=[4, 8, 16])
    parser.add_argument("--list", type=int, default=64, help="candidates against one reference image")
    parser.add_argument("--pairs", type=int, default=16, help="distinct pairs")
    parser.add_argument("--plain-comparisons", type=int, default=16, help="of which one's time is the mean")
    parser.add_argument("--checked", type=int, default=8, help="comparisons of each tournament checked by both routes")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--full", action="store_true", help="published sizes instead of small ones")
    parser.add_argument("--tournaments-only", action="store_true")
    parser.add_argument(
        "--clock", choices=["wall", "cpu"], default="wall", help="cpu: on a machine that others use too"
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--add", action="store_true", help="keep what the JSON file has of other runs")
    parser.add_argument("--page", type=Path, help="page whose figures are replaced, such as docs/performance.md")
    options = parser.parse_args()
    if options.clock == "cpu":
        Clock.read = time.process_time
    with torch.no_grad():
        result = measure(options)
    if options.add:
        result = _with_earlier(json.loads(options.json.read_text(encoding="utf-8")), result)
    print(json.dumps(result["summary"], indent=2))
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if options.page is not None:
        fill_page(options.page, page_tables(result))


if __name__ == "__main__":
    main()
