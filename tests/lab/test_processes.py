import contextlib
import os
import subprocess
import sys
import time

import psutil

from rewarddance.lab.processes import make_all


def doubled(number: int) -> int:
    return 2 * number


def hang(_: int) -> None:
    print(os.getpid(), flush=True)
    time.sleep(60)


def test_runs_come_back_in_their_order_and_are_counted():
    done: list[int] = []
    assert make_all(doubled, [3, 1, 2], 2, done.append) == [6, 2, 4]
    assert done == [1, 2, 3]


def test_a_study_that_is_killed_leaves_no_run_behind_that_goes_on():
    script = (
        "from rewarddance.lab.processes import make_all\n"
        "from tests.lab.test_processes import hang\n"
        "if __name__ == '__main__':\n"
        "    make_all(hang, [1], 1)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as study:
        assert study.stdout is not None
        run = psutil.Process(int(study.stdout.readline()))
        study.kill()
    with contextlib.suppress(psutil.NoSuchProcess):
        run.wait(10)
    assert not run.is_running() or run.status() == psutil.STATUS_ZOMBIE
