"""Comparisons learned per second: our loop beside TRL's SFTTrainer, on the same model, data, batches and tokens.

Both learn the pairwise question in both orders, in float32, with fused AdamW, the whole model. The baseline gets what
a processor would give it: PIL preprocessing and batch tokenisation of the same text, and the answer as its label. The
two take turns, and the figure is the ratio of the medians, because other programs may share the machine. Run it with

    python -m benchmarks.training_throughput --json throughput.json
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
import trl
from PIL import Image

from benchmarks.wide_vocabulary import widened
from rewarddance.config.training import TrainConfig
from rewarddance.core.types import Comparison
from rewarddance.rewards.backbones.internvl import CHAT_TEMPLATE, IMAGE_END_TOKEN, IMAGE_START_TOKEN, IMAGE_TOKEN
from rewarddance.rewards.loading import new_reward_model
from rewarddance.training.reward_model import train_reward_model
from tests.tiny_models import save_tiny_model
from tests.training.drawn_comparisons import draw_comparisons

LEARNING_RATE = 1e-4


class Stopwatch:
    """Comparisons per second, and per second of CPU time, from the end of the first step to the end of the last."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, float]] = []

    def mark(self) -> None:
        """A step has ended."""
        self.marks.append((time.perf_counter(), time.process_time()))

    def rates(self, comparisons_per_step: int) -> tuple[float, float]:
        """Per second of the clock, and of this process's CPU time."""
        steps = len(self.marks) - 1
        wall, cpu = (self.marks[-1][clock] - self.marks[0][clock] for clock in (0, 1))
        return comparisons_per_step * steps / wall, comparisons_per_step * steps / cpu


def ours(base: Path, comparisons: Sequence[Comparison], batch: int, epochs: int, criteria: str, out: Path) -> Stopwatch:
    watch = Stopwatch()
    config = TrainConfig.model_validate(
        {
            "model": {"base": str(base), "instruction": criteria},
            "data": {"train": "unused"},
            "optimizer": {"learning_rate": LEARNING_RATE},
            "batch_size": batch,
            "epochs": epochs,
            "precision": "float32",
            "save_every": 10**6,
            "out": str(out),
        }
    )
    train_reward_model(config, train=comparisons, held_out=(), on_step=lambda _: watch.mark())
    return watch


class Collator:
    """What a processor does for a batch: open, preprocess, put image tokens into the text, tokenise, pad, label."""

    def __init__(self, base: Path, criteria: str, tokens_per_image: int) -> None:
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(base)
        self.processor = transformers.AutoImageProcessor.from_pretrained(base, backend="pil")
        self.image = IMAGE_START_TOKEN + IMAGE_TOKEN * tokens_per_image + IMAGE_END_TOKEN
        self.model = new_reward_model(base, "pairwise", instruction=criteria)
        self.criteria = self.model.record.instruction.text

    def text(self, comparison: Comparison) -> str:
        """The question in the chat format, with its image tokens."""
        head = f"{self.criteria}\n" if self.criteria else ""
        question = (
            f"{head}Prompt: {comparison.prompt}\nImage 1: {self.image}\n\nImage 2: {self.image}\n"
            "\nIs image 2 better than image 1? Answer yes or no."
        )
        turn = [{"role": "user", "content": question}]
        return self.tokenizer.apply_chat_template(
            turn, chat_template=CHAT_TEMPLATE, add_generation_prompt=True, tokenize=False
        )

    def __call__(self, comparisons: Sequence[Comparison]) -> dict[str, torch.Tensor]:
        """A batch for a causal language model; the answer is the only label."""
        images = [Image.open(media.path).convert("RGB") for one in comparisons for media in (one.first, one.second)]
        pixels = self.processor(images, return_tensors="pt")["pixel_values"]
        answers = ["yes" if one.choice == "second" else "no" for one in comparisons]
        texts = [self.text(one) + answer for one, answer in zip(comparisons, answers, strict=True)]
        batch = self.tokenizer(texts, padding=True, padding_side="left", return_tensors="pt")
        labels = torch.full_like(batch["input_ids"], -100)
        labels[:, -1] = batch["input_ids"][:, -1]
        return {
            "input_ids": batch["input_ids"],
            "attention_mask": batch["attention_mask"],
            "pixel_values": pixels,
            "labels": labels,
        }

    def check(self, comparisons: Sequence[Comparison]) -> int:
        """Same tokens as ours, plus the answer; gives their number in a row."""
        own = self.model.prepare_comparisons(comparisons).questions.inputs["input_ids"]
        theirs = self(comparisons)["input_ids"]
        if not torch.equal(own, theirs[:, :-1]):
            raise SystemExit("the baseline does not see the tokens that we see; the comparison would not be fair")
        return own.shape[1]


def theirs(
    base: Path, comparisons: Sequence[Comparison], batch: int, epochs: int, collator: Collator, out: Path
) -> Stopwatch:
    watch = Stopwatch()

    class Marks(transformers.TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            """Called by the trainer."""
            watch.mark()

    rows = [shown for one in comparisons for shown in (one, one.swapped())]
    model = transformers.InternVLForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
    trainer = trl.SFTTrainer(
        model=model,
        args=trl.SFTConfig(
            output_dir=str(out),
            per_device_train_batch_size=2 * batch,
            num_train_epochs=epochs,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="cosine",
            warmup_steps=1,
            optim="adamw_torch_fused",
            bf16=False,
            use_cpu=True,
            activation_checkpointing=False,
            gradient_checkpointing=False,
            remove_unused_columns=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            max_length=None,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=datasets.Dataset.from_dict({"row": list(range(len(rows)))}),
        data_collator=lambda chosen: collator([rows[one["row"]] for one in chosen]),
        processing_class=collator.tokenizer,
        callbacks=[Marks()],
    )
    if trainer.model.is_activation_checkpointing:
        raise SystemExit("the baseline computes its activations twice; the comparison would not be fair")
    trainer.train()
    return watch


def measure(base: Path, work: Path, options: argparse.Namespace) -> dict[str, Any]:
    comparisons = draw_comparisons(work / "media", options.comparisons)
    tokens_per_image = new_reward_model(base, "pairwise").backbone.layout.tokens_per_tile
    collator = Collator(base, options.criteria, tokens_per_image)
    tokens = collator.check(comparisons[: options.batch])
    rates: dict[str, list[tuple[float, float]]] = {"ours": [], "trl": []}
    for turn in range(options.turns):
        settings = (base, comparisons, options.batch, options.epochs)
        rates["ours"].append(ours(*settings, options.criteria, work / f"ours-{turn}").rates(options.batch))
        rates["trl"].append(theirs(*settings, collator, work / f"trl-{turn}").rates(options.batch))
    wall, cpu = (
        {name: statistics.median(r[clock] for r in values) for name, values in rates.items()} for clock in (0, 1)
    )
    return {
        "tokens_per_row": tokens,
        "comparisons_per_second": wall,
        "comparisons_per_cpu_second": cpu,
        "ratio": wall["ours"] / wall["trl"],
        "ratio_of_cpu_time": cpu["ours"] / cpu["trl"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, help="folder of an InternVL model; otherwise a tiny random one")
    parser.add_argument("--vocabularies", type=int, nargs="*", default=[0, 4096], help="head widths; 0 for the base's")
    parser.add_argument("--comparisons", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8, help="comparisons in a step, each in both orders")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--criteria", default="overall", help="name of the instruction")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    results: dict[str, Any] = {
        "machine": f"{platform.platform()}, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads",
        "versions": {name: version(name) for name in ("torch", "transformers", "trl", "accelerate")},
        "command": " ".join(sys.argv),
        "runs": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        base = options.base or save_tiny_model("internvl", work / "base")
        for vocabulary in options.vocabularies:
            place = work / f"vocabulary-{vocabulary}"
            place.mkdir()
            sized = base if vocabulary == 0 else widened(base, place / "base", vocabulary)
            results["runs"][f"vocabulary {vocabulary or 'of the base'}"] = measure(sized, place, options)
    print(json.dumps(results, indent=2))
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
