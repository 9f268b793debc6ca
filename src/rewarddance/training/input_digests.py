"""Digests of what an alignment run reads, so that a resumed run can tell whether it has changed meanwhile."""

import hashlib
import json
from collections.abc import Collection, Sequence
from pathlib import Path

from rewarddance.config.alignment import AlignConfig
from rewarddance.config.alignment_rewards import AskedModel
from rewarddance.core.errors import DataError
from rewarddance.core.fingerprints import stored_fingerprint
from rewarddance.data.prompts import read_prompts
from rewarddance.data.references import ReferenceStore
from rewarddance.rewards.instructions import instruction_identity
from rewarddance.training.regulariser import pretraining_pictures


def input_digests(config: AlignConfig, without: Collection[str] = ()) -> dict[str, str]:
    """What stands behind the names of the config, by the name's key.

    No digest costs more than moments, whatever the sizes: a reward model or judge is known by its record, which holds
    the hashes of its files and is checked when it is loaded; a generator, and a model without a record, by its files'
    names, sizes, beginnings and ends; prompts and criteria by their text; reference images by the hashes that the
    tournament stored of them, which are checked when the run begins; pictures to learn from by name and size. What is
    not here has no digest: a hub id, and the weights behind a service. Nor has what cannot be read, of which whoever
    needs it has more to say. References of prompts that the run does not have count for nothing.

    Args:
        config: Names the inputs.
        without: Blocks (`generator`, `rewards`, `judges`, `references`) whose content the caller made itself.

    Raises:
        DataError: A list of prompts cannot be used.
    """
    found: dict[str, str | None] = {
        "prompts.train": _prompts(config.prompts.train),
        "prompts.held_out": None if config.prompts.held_out is None else _prompts(config.prompts.held_out),
        "regulariser.pretraining_data": _pictures(config),
    }
    if "generator" not in without:
        found["generator.path"] = _model(config.generator.path, config.out)
        adapter = config.generator.adapter
        found["generator.adapter"] = None if adapter is None else _model(str(adapter), config.out)
    if "references" not in without:
        found["references.folder"] = _references(config)
    asked: dict[str, Sequence[AskedModel]] = {"rewards": config.rewards, "judges": config.judges}
    for block in asked.keys() - set(without):
        for place, one in enumerate(asked[block]):
            found[f"{block}.{place}.model"] = _model(one.model, config.out)
            found[f"{block}.{place}.instruction"] = instruction_identity(one.instruction)
    return {key: value for key, value in sorted(found.items()) if value is not None}


def _model(location: str, out: Path) -> str | None:
    """None as well for a folder that the run lies in, and so changes itself."""
    return None if out.resolve().is_relative_to(Path(location).expanduser().resolve()) else stored_fingerprint(location)


def _prompts(path: Path) -> str:
    return _digest([[item.prompt, item.kind] for item in read_prompts(path)])


def _pictures(config: AlignConfig) -> str | None:
    try:
        pictures = pretraining_pictures(config)
    except DataError:
        return None
    return _digest([[one.prompt, str(one.image), one.image.stat().st_size] for one in pictures]) if pictures else None


def _references(config: AlignConfig) -> str | None:
    """Of the images that the run uses, and of how they were made if it makes others likewise."""
    asked = config.references
    if asked.folder is None:
        return None
    try:
        store = ReferenceStore.open(asked.folder)
    except DataError:
        return None
    kept = store.best if asked.kept == "top" else store.worst
    lists = {config.prompts.train, config.prompts.evaluated}
    prompts = sorted({item.prompt for path in lists for item in read_prompts(path)})
    images = [[prompt, *(media.sha256 for media in kept(prompt, asked.count))] for prompt in prompts]
    return _digest([images, dict(store.settings) if config.makes_references else None])


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
