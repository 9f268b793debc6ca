import logging
import resource
import signal

import pytest
import torch

from rewarddance.core.errors import CheckpointError
from rewarddance.training import checkpoints
from rewarddance.training.checkpoints import RunProgress, best_complete, latest_complete, save_checkpoint, tidy


def save(folder, step, accuracy=None, best_step=None, keep=2, size=64):
    weights = {"weight": torch.full((size,), float(step)), "bias": torch.arange(4.0)}
    optimizer = {"weight/exp_avg": torch.full((size,), 0.5 * step), "weight/step": torch.tensor(float(step))}
    return save_checkpoint(folder, RunProgress(step, accuracy, accuracy, best_step), weights, optimizer, keep)


def steps(folder):
    return [int(path.name.removeprefix("step-")) for path in sorted(folder.glob("step-*"))]


def truncate(path):
    path.write_bytes(path.read_bytes()[:-10])


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def delete(path):
    path.unlink()


def empty(path):
    path.write_bytes(b"")


def fill_with_zeros(path):
    path.write_bytes(bytes(path.stat().st_size))


FILES = ["weights.safetensors", "optimizer.safetensors", "progress.json", "manifest.json"]
DAMAGES = [truncate, flip_a_bit, delete, empty, fill_with_zeros]


def test_a_checkpoint_gives_back_what_was_saved(tmp_path):
    save(tmp_path, 3, accuracy=0.75, best_step=3)
    found = latest_complete(tmp_path)
    assert found.progress == RunProgress(3, 0.75, 0.75, 3)
    assert torch.equal(found.weights()["weight"], torch.full((64,), 3.0))
    assert torch.equal(found.optimizer()["weight/exp_avg"], torch.full((64,), 1.5))


def test_there_is_no_newest_checkpoint_in_a_folder_that_does_not_exist(tmp_path):
    assert latest_complete(tmp_path / "nowhere") is None


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_and_said_in_one_line(tmp_path, caplog, file, damage):
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    damage(newest.folder / file)
    with caplog.at_level(logging.WARNING):
        found = latest_complete(tmp_path)
    assert found.progress.optimizer_step == 1
    assert len(caplog.records) == 1
    message = caplog.records[0].getMessage()
    assert "step-00000002" in message
    assert file in message
    assert "\n" not in message


@pytest.mark.parametrize("place", [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
@pytest.mark.parametrize("file", FILES)
def test_a_file_that_is_cut_anywhere_is_noticed(tmp_path, file, place):
    save(tmp_path, 1)
    path = save(tmp_path, 2).folder / file
    data = path.read_bytes()
    path.write_bytes(data[: int(place * len(data))])
    assert latest_complete(tmp_path).progress.optimizer_step == 1


def test_without_the_manifest_check_a_flipped_bit_is_loaded_without_a_word(tmp_path, monkeypatch):
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    flip_a_bit(newest.folder / "weights.safetensors")
    monkeypatch.setattr(checkpoints, "verify_manifest", lambda folder: [])
    found = latest_complete(tmp_path)
    assert found.progress.optimizer_step == 2
    assert not torch.equal(found.weights()["weight"], torch.full((64,), 2.0))


def test_when_every_checkpoint_is_damaged_the_run_does_not_silently_start_again(tmp_path):
    for step in (1, 2):
        truncate(save(tmp_path, step).folder / "weights.safetensors")
    with pytest.raises(CheckpointError, match="none of the 2 checkpoints"):
        latest_complete(tmp_path)


def test_the_newest_and_the_best_stay(tmp_path):
    for step in range(1, 7):
        save(tmp_path, step, accuracy=0.9 if step == 2 else 0.5, best_step=min(step, 2))
    assert steps(tmp_path) == [2, 5, 6]


def test_at_least_two_stay_so_that_a_damaged_one_does_not_cost_the_run(tmp_path):
    for step in range(1, 4):
        save(tmp_path, step, keep=1)
    assert steps(tmp_path) == [2, 3]


def test_the_best_is_the_earliest_of_equals_and_a_damaged_one_does_not_count(tmp_path):
    for step, accuracy in [(1, 0.7), (2, 0.9), (3, 0.9), (4, None)]:
        save(tmp_path, step, accuracy, keep=9)
    assert best_complete(tmp_path).progress.optimizer_step == 2
    delete(tmp_path / "step-00000002" / "weights.safetensors")
    assert best_complete(tmp_path).progress.optimizer_step == 3


def test_tidying_removes_half_written_folders_and_sets_rejected_checkpoints_aside(tmp_path):
    good, damaged = save(tmp_path, 1), save(tmp_path, 2)
    delete(damaged.folder / "progress.json")
    (tmp_path / ".staged-step-00000003").mkdir()
    tidy(tmp_path, good)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rejected-step-00000002", "step-00000001"]


def test_a_full_disk_leaves_the_last_checkpoint_and_says_what_to_do(tmp_path):
    save(tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    # A limit on the size of a file is the nearest thing to a full disk that needs no rights.
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(CheckpointError, match="earlier checkpoints are intact"):
            save(tmp_path, 2, size=100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001"]
    assert latest_complete(tmp_path).progress.optimizer_step == 1
    save(tmp_path, 2, size=100_000)
    assert latest_complete(tmp_path).progress.optimizer_step == 2
