from pathlib import Path

import pytest

from rewarddance.core.errors import UsageError
from rewarddance.training.run_folder import RunFolder
from tests.training.stand_in_generator import align_config


def test_pictures_of_the_references_are_no_folder_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    regulariser = {"pretraining_weight": 1.0, "pretraining_data": "references"}
    config = align_config(tmp_path, references={"refresh_every": 2}, regulariser=regulariser, out=".")
    folder = RunFolder(config.out)
    monkeypatch.chdir(tmp_path)
    folder.claim(config)
    folder.references.mkdir()
    folder.check(config, resume=True)


def test_a_model_in_the_way_is_found_under_a_path_from_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = align_config(tmp_path, rewards=[{"model": "~/run/adapter"}])
    (config.out / "adapter").mkdir(parents=True)
    folder = RunFolder(config.out)
    folder.claim(config)
    with pytest.raises(UsageError, match=r"rewards.0.model is ~/run/adapter, which lies in"):
        folder.check(config, resume=True)
