"""Judging a manifest by several workers: processes of this machine, or Ray."""

import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from rewarddance.cli.manifest import Summary, continued
from rewarddance.cli.progress import hide_transformers_bars, progress
from rewarddance.core.errors import UsageError
from rewarddance.serving.local_workers import judge_on_processes
from rewarddance.serving.manifest import Judge, Manifest
from rewarddance.serving.ray_workers import judge_on_ray
from rewarddance.serving.shards import ShardJob, merge_shards

_FOLDER_SUFFIX = ".shards"


@dataclass(frozen=True, slots=True)
class JudgeLoader:
    """Loads a reward model in a worker; everything it needs can be sent there.

    Attributes:
        location: Folder or hub id.
        references: How several reference images are shown; None for the model's own way.
    """

    location: str
    device: str
    dtype: str
    adapter: str | None
    revision: str | None
    kind: Literal["pairwise", "pointwise", "scalar"] | None
    trust_remote_code: bool
    references: Literal["together", "one_by_one"] | None

    def __call__(self) -> Judge:
        """The judge of a model."""
        from rewarddance.rewards.loading import load_reward_model

        hide_transformers_bars()
        model = load_reward_model(
            self.location,
            device=self.device,
            dtype=self.dtype,
            adapter=self.adapter,
            revision=self.revision,
            kind=self.kind,
            trust_remote_code=self.trust_remote_code,
        )
        return partial(model.judge, reference_mode=self.references)


@dataclass(frozen=True, slots=True)
class Workers:
    """Who judges, and in what portions.

    Attributes:
        count: Processes or actors, each with a model of its own.
        ray: None for processes of this machine; else an address of Ray, or `local`.
        gpus: Share of a GPU for each actor of Ray.
        processes_gpus: GPUs that processes of this machine are dealt, by CUDA's names; see `visible_gpus`.
        shard_rows: Rows of a shard.
        batch_size: Rows that are judged and saved together.
        max_deaths: Workers that a row may kill.
    """

    count: int
    ray: str | None
    gpus: float
    shard_rows: int
    batch_size: int
    max_deaths: int
    processes_gpus: tuple[str, ...] = ()


def visible_gpus(device: str) -> tuple[str, ...]:
    """GPUs to deal out to workers, by CUDA's names: all that this process sees, unless `device` names one or none."""
    if device not in ("auto", "cuda"):
        return ()
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    listed = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return tuple(listed[:count]) if listed else tuple(str(number) for number in range(count))


def judge_in_shards(load: Callable[[], Judge], manifest: Manifest, out: Path, workers: Workers) -> Summary:
    """Judge a manifest and write the same file that `judge_manifest` writes.

    Args:
        load: Loads the judge in a worker.
        manifest: The rows.
        out: Appears when every row is judged; until then, the shards stand in a folder beside it.
        workers: Who judges.

    Raises:
        UsageError: The output or the shards belong to another job.
    """
    total = len(manifest)
    if out.exists():
        with out.open("a+b") as file:
            resumed, failed = continued(file, manifest, out)
        if resumed < total:
            raise UsageError(f"{out} was begun without --workers; continue it that way, or delete it")
        return Summary(total, failed, resumed)
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = out.with_name(out.name + _FOLDER_SUFFIX).resolve()
    job = ShardJob(manifest, folder, workers.shard_rows, workers.batch_size, workers.max_deaths)
    job.open_folder()
    resumed = total - sum(len(job.rows(shard)) for shard in job.pending())
    session = uuid.uuid4().hex
    with progress("judging rows", total) as show:
        if workers.ray is None:
            judge_on_processes(job, load, workers.count, session, show, workers.processes_gpus)
        else:
            judge_on_ray(job, load, workers.count, session, show, workers.ray, workers.gpus)
    return Summary(total, merge_shards(job, out), resumed)
