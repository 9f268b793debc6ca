"""From the options of `rewarddance search` to settings, to what is stored of them, and to loaded models."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rewarddance.cli.progress import hide_diffusers_bars, hide_transformers_bars
from rewarddance.cli.search_service import ServiceOptions
from rewarddance.core.errors import UsageError
from rewarddance.core.fingerprints import generator_fingerprint, model_fingerprint

if TYPE_CHECKING:
    from rewarddance.core.types import Media
    from rewarddance.generators.protocol import ImageSize
    from rewarddance.rewards.protocol import RewardKind, RewardModel
    from rewarddance.rewards.remote import RemoteRewardModel
    from rewarddance.search.bench import Drawing
    from rewarddance.search.running import Algorithm, Search
    from rewarddance.search.verification import Way

AlgorithmName = Literal["best-of-n", "paths", "particles"]

_FIELDS: Mapping[AlgorithmName, tuple[str, ...]] = {
    "best-of-n": ("candidates",),
    "paths": ("paths", "branches", "starts", "renoise", "levels"),
    "particles": ("particles", "strength", "potential", "levels"),
}


@dataclass(frozen=True, slots=True)
class AlgorithmOptions:
    """Options that belong to one algorithm or another; None for those that were left out."""

    candidates: int | None
    paths: int | None
    branches: int | None
    starts: int | None
    renoise: float | None
    particles: int | None
    strength: float | None
    potential: str | None
    levels: str | None
    seed: int


def algorithm_of(name: AlgorithmName, options: AlgorithmOptions) -> "Algorithm":
    """The settings of an algorithm.

    Raises:
        UsageError: An option belongs to another algorithm, or has a value that cannot be.
    """
    from rewarddance.search.best_of_n import BestOfNSettings
    from rewarddance.search.particles import ParticleSettings
    from rewarddance.search.path_search import PathSettings

    given: dict[str, Any] = {key: value for key, value in asdict(options).items() if value is not None}
    foreign = sorted(set(given) - {"seed", *_FIELDS[name]})
    if foreign:
        raise UsageError(f"--{foreign[0].replace('_', '-')} does not belong to `search {name}`; leave it out")
    if "levels" in given:
        given["levels"] = _numbers(given["levels"])
    match name:
        case "best-of-n":
            return BestOfNSettings(**given)
        case "paths":
            return PathSettings(**given)
        case "particles":
            return ParticleSettings(**given)


def size_of(height: int | None, width: int | None) -> "ImageSize | None":
    """The size of pictures; None for the generator's own.

    Raises:
        UsageError: Only one side is given.
    """
    from rewarddance.generators.protocol import ImageSize

    if (height is None) != (width is None):
        raise UsageError("--height and --width go together; give both or neither")
    return None if height is None or width is None else ImageSize(height, width)


@dataclass(frozen=True, slots=True)
class Loading:
    """What is loaded, and how; names are those of the options."""

    generator: str
    model: str
    judge: str | None
    verify: Literal["score", "round-robin", "knock-out"] | None
    instruction: str | None
    references: Path | None
    reference_count: int
    service: ServiceOptions
    adapter: str | None
    revision: str | None
    generator_revision: str | None
    generator_adapter: Path | None
    kind: "RewardKind | None"
    device: str
    dtype: str
    trust_remote_code: bool

    @contextmanager
    def loaded(self, settings: "Algorithm", drawing: "Drawing", prompts: Sequence[str]) -> Iterator["Search"]:
        """The models, until the search is over.

        Raises:
            UsageError: Model, references and the way to verify do not fit each other.
            ModelError: A model cannot be loaded, or its service gives other scores than it should.
            DataError: The references, or the known answers of a service, cannot be read.
        """
        from rewarddance.generators.loading import load_generator
        from rewarddance.rewards.instructions import instruction_argument
        from rewarddance.search.running import Search
        from rewarddance.search.verification import Verifier

        self._require_another_judge()
        references = self._references(prompts)
        hide_transformers_bars()
        hide_diffusers_bars()
        with self._verifier_model() as model:
            instruction = None if self.instruction is None else instruction_argument(self.instruction)
            verifier = Verifier(model, self._way(settings, model.kind), instruction, references)
            generator = load_generator(
                self.generator,
                self.device,
                self.dtype,
                self.generator_revision,
                self.trust_remote_code,
                self.generator_adapter,
            )
            judge = None if self.judge is None else self._model(self.judge, adapter=None, revision=None, kind=None)
            yield Search(generator, verifier, settings, drawing, judge)

    def _require_another_judge(self) -> None:
        """By other criteria the same model may watch itself, as in `align`."""
        if self.judge is None or self.adapter is not None or self.instruction is not None:
            return
        if model_fingerprint(self.judge, None, None, None) == model_fingerprint(self.model, None, None, None):
            raise UsageError(
                f"--judge {self.judge} is MODEL itself and would like whatever MODEL likes; "
                "name a reward model of other comparisons"
            )

    @contextmanager
    def _verifier_model(self) -> Iterator["RewardModel | RemoteRewardModel"]:
        """In process, or behind a service."""
        if self.service.url is None:
            yield self._model(self.model, self.adapter, self.revision, self.kind)
            return
        with self.service.connected(self.model, self.kind) as served:
            yield served

    def _model(self, model: str, adapter: str | None, revision: str | None, kind: "RewardKind | None") -> "RewardModel":
        from rewarddance.rewards.loading import load_reward_model

        return load_reward_model(
            model,
            device=self.device,
            dtype=self.dtype,
            adapter=adapter,
            revision=revision,
            kind=kind,
            trust_remote_code=self.trust_remote_code,
        )

    def _way(self, settings: "Algorithm", kind: "RewardKind") -> "Way":
        """How the model is asked: by scores where it can give any, else by the cheapest tournament that serves."""
        from rewarddance.search.best_of_n import BestOfNSettings

        is_best_of_n = isinstance(settings, BestOfNSettings)
        has_scores = kind != "pairwise" or self.references is not None
        ways: Mapping[str, Way] = {"score": "score", "round-robin": "round_robin", "knock-out": "knock_out"}
        way = ways[self.verify] if self.verify else "score" if has_scores else "round_robin"
        if self.verify is None and not has_scores and is_best_of_n:
            way = "knock_out"
        if way == "score" and not has_scores:
            raise UsageError("a pairwise MODEL scores against references; give --references, or hold a tournament")
        if way == "knock_out" and not is_best_of_n:
            raise UsageError("a knock-out finds one winner, and this search keeps several; use round-robin or score")
        if way != "score" and self.references is not None:
            raise UsageError("a tournament compares candidates with each other; leave --references out")
        return way

    def _references(self, prompts: Sequence[str]) -> "dict[str, tuple[Media, ...]]":
        return {} if self.references is None else best_references(self.references, prompts, self.reference_count)


def best_references(folder: Path, prompts: Sequence[str], count: int) -> "dict[str, tuple[Media, ...]]":
    """The best reference images of every prompt.

    Raises:
        UsageError: A prompt has none, or not so many are kept.
        DataError: They cannot be read, or a picture is another one by now.
    """
    from rewarddance.data.references import ReferenceStore

    store = ReferenceStore.open(folder)
    lacking = store.lacking(prompts)
    if lacking:
        raise UsageError(
            f"{folder} has no reference image for {len(lacking)} of the prompts, such as {lacking[0]!r}; "
            "make them with `rewarddance references`"
        )
    kept = store.settings.get("top")
    if isinstance(kept, int) and count > kept:
        raise UsageError(
            f"--reference-count is {count}, and {folder} keeps {kept} of each prompt; "
            f"lower it, or make references in another folder with --top {count}"
        )
    store.require_unchanged(prompts)
    return {prompt: store.best(prompt, count) for prompt in prompts}


def settings_record(
    name: AlgorithmName, settings: "Algorithm", drawing: "Drawing", loading: Loading
) -> dict[str, object]:
    """Everything that decides the result, as JSON: what a folder must have been begun with to be continued.

    Raises:
        UsageError: Unknown criteria, or request fields that are no JSON.
    """
    from rewarddance.rewards.instructions import load_instruction

    criteria = None if loading.instruction is None else load_instruction(loading.instruction).sha256
    sampling = {key: value for key, value in asdict(drawing).items() if key != "batch_size"}
    if drawing.size is not None and drawing.size.frames is None:
        del sampling["size"]["frames"]  # as searches for pictures were stored before there were clips
    return {
        "algorithm": name,
        **asdict(settings),
        "sampling": {**sampling, "dtype": loading.dtype},
        "generator": generator_fingerprint(loading.generator, loading.generator_revision, loading.generator_adapter),
        "model": model_fingerprint(loading.model, loading.adapter, loading.revision, loading.kind),
        "judge": None if loading.judge is None else model_fingerprint(loading.judge, None, None, None),
        "served": loading.service.record,
        "verify": loading.verify,
        "instruction": criteria,
        "references": None if loading.references is None else _references_record(loading),
    }


def _references_record(loading: Loading) -> list[object]:
    from rewarddance.core.files import sha256_of
    from rewarddance.data.references import ROWS_NAME, ReferenceStore, generation_folder

    if loading.references is None:
        return []
    generation = ReferenceStore.open(loading.references).generation
    rows = generation_folder(loading.references, generation) / ROWS_NAME
    return [sha256_of(rows), loading.reference_count]


def _numbers(text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(word) for word in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or not all(map(isfinite, numbers)):
        raise UsageError(f"noise levels are numbers with commas between, such as 0.7,0.5, not {text!r}")
    return numbers
