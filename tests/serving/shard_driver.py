"""A driver of a sharded job as a program of its own, to be killed: MANIFEST OUT WORKERS RAY SECONDS."""

import sys
from functools import partial
from pathlib import Path

from rewarddance.cli.manifest_job import Workers, judge_in_shards
from rewarddance.serving.manifest import Manifest
from tests.serving.shard_judges import load_judge

if __name__ == "__main__":
    manifest, out, workers, ray, seconds = sys.argv[1:]
    crew = Workers(int(workers), ray or None, 0.0, shard_rows=10, batch_size=3, max_deaths=3)
    rows = Manifest.open(Path(manifest), None, "judge")
    judge_in_shards(partial(load_judge, seconds=float(seconds)), rows, Path(out), crew)
