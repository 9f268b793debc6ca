import os
import signal

from rewarddance.training import pause_points
from rewarddance.training.pause_points import reached


def test_nothing_happens_unless_the_environment_names_the_point(monkeypatch):
    stops = []
    monkeypatch.setattr(os, "kill", lambda *call: stops.append(call))
    monkeypatch.delenv(pause_points.PAUSE_VARIABLE, raising=False)
    reached("step:started")
    monkeypatch.setenv(pause_points.PAUSE_VARIABLE, "checkpoint:renamed")
    reached("step:started")
    assert stops == []


def test_the_process_stops_itself_the_second_time_it_comes_there(monkeypatch, tmp_path):
    stops = []
    monkeypatch.setattr(os, "kill", lambda *call: stops.append(call))
    monkeypatch.setattr(pause_points, "_seen", type(pause_points._seen)())
    monkeypatch.setenv(pause_points.PAUSE_VARIABLE, "step:started#2")
    monkeypatch.setenv(pause_points.MARKER_VARIABLE, str(tmp_path / "marker"))
    reached("step:started")
    assert stops == []
    reached("step:started")
    assert stops == [(os.getpid(), signal.SIGSTOP)]
    assert (tmp_path / "marker").read_text(encoding="utf-8") == "step:started"
