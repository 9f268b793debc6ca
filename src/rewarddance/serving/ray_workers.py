"""Shards on Ray: one actor with a model for each worker, from one machine to a cluster.

Ray replaces an actor that dies and gives its shard to the next one, without end; what bounds the deaths of a row is
the journal of its shard. Every machine sees the manifest, its media and the folder of the output under the same path.
"""

import logging
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from rewarddance.core.errors import RewardDanceError, UsageError
from rewarddance.serving.device_errors import has_lost_device
from rewarddance.serving.manifest import Judge
from rewarddance.serving.shards import ShardJob, judge_shard_persistently

LOCAL = "local"


class ShardActor:
    """Judges the shards that Ray Data sends it; the model is loaded once."""

    def __init__(self, job: ShardJob, load: Callable[[], Judge], session: str) -> None:
        self._job = job
        self._session = session
        self._judge = load()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Judge the shards of a batch and say how many rows they have."""
        try:
            rows = [
                judge_shard_persistently(self._job, int(shard), self._judge, self._session) for shard in batch["shard"]
            ]
        except RuntimeError as error:
            if has_lost_device(error):
                os._exit(1)  # an actor that dies is replaced, and one that raises ends the job
            raise
        return {"rows": np.array(rows)}


def judge_on_ray(
    job: ShardJob,
    load: Callable[[], Judge],
    workers: int,
    session: str,
    show: Callable[[int], None],
    address: str = LOCAL,
    gpus_per_worker: float = 0.0,
) -> None:
    """Finish every shard; as `judge_on_processes`.

    Args:
        job: Its folder is open.
        load: Loads the judge; is sent to the workers.
        workers: Actors, each with a model of its own.
        session: Of this driver.
        show: Told how many rows are done.
        address: `local` starts Ray on this machine and stops it in the end; otherwise that of a cluster, or `auto`.
        gpus_per_worker: Share of a GPU that Ray sets aside for each.

    Raises:
        UsageError: Ray is not installed.
        RewardDanceError: Ray, or the loading of the model, failed.
    """
    try:
        import ray
        import ray.data
        from ray.exceptions import RayError
    except ImportError as error:
        raise UsageError("`--ray` needs Ray; install rewarddance[scale]") from error
    pending = job.pending()
    if not pending:
        return
    done = len(job.manifest) - sum(len(job.rows(shard)) for shard in pending)
    _start(ray, address, workers)
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        # One block a shard: a block is what is tried again when an actor dies.
        shards = ray.data.from_items([{"shard": shard} for shard in pending], override_num_blocks=len(pending))
        judged = shards.map_batches(
            ShardActor,
            fn_constructor_kwargs={"job": job, "load": load, "session": session},
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(pending))),
            num_cpus=1,
            num_gpus=gpus_per_worker,
        )
        for row in judged.iter_rows():
            done += int(row["rows"])
            show(done)
    except RayError as error:
        raise RewardDanceError(f"Ray could not finish the job: {_last_line(error)}") from error
    finally:
        if address == LOCAL:
            ray.shutdown()


def _start(ray: Any, address: str, workers: int) -> None:
    # The dashboard can run code for whoever reaches it, so a Ray that is ours has none.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
    if address == LOCAL:
        ray.init(num_cpus=workers, include_dashboard=False, _node_ip_address="127.0.0.1", **options)
    else:
        ray.init(address=address, **options)


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
