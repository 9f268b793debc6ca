import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rewarddance.core.errors import UsageError
from rewarddance.core.files import (
    append_durably,
    locked_folder,
    sha256_of,
    sync_tree,
    system_error_line,
    verify_manifest,
    write_bytes_atomic,
    write_json_atomic,
    write_manifest,
    write_text_atomic,
)


def fail_to_rename(self: Path, target: Path) -> Path:
    raise OSError("the disk is gone")


def test_a_written_file_has_the_bytes_that_were_given(tmp_path: Path):
    write_bytes_atomic(tmp_path / "a.bin", b"\x00\xff")

    assert (tmp_path / "a.bin").read_bytes() == b"\x00\xff"


def test_text_is_written_as_utf8(tmp_path: Path):
    write_text_atomic(tmp_path / "a.txt", "naïve")

    assert (tmp_path / "a.txt").read_bytes() == "naïve".encode()


def test_a_failure_leaves_the_old_content_and_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.txt"
    write_text_atomic(path, "old")
    monkeypatch.setattr(Path, "replace", fail_to_rename)

    with pytest.raises(OSError, match="disk is gone"):
        write_text_atomic(path, "new")

    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("way", ["atomic", "append"])
def test_a_full_disk_is_told_with_the_file_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str):
    path = tmp_path / "a.txt"
    path.write_bytes(b"old ")

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left") as caught:
        if way == "atomic":
            write_bytes_atomic(path, b"new")
        else:
            with path.open("ab") as file:
                append_durably(file, b"new")

    advice = "free some and give the same command again, `align` and `train` with --resume; what was saved is intact"
    assert system_error_line(caught.value) == f"No space left on device: {path}; {advice}"


def test_what_is_appended_comes_after_what_is_there(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"old\n")

    with path.open("a+b") as file:
        assert file.read() == b""
        append_durably(file, b"new\n")
        append_durably(file, b"newer\n")

    assert path.read_bytes() == b"old\nnew\nnewer\n"


def test_the_bytes_reach_the_disk_before_the_file_takes_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    events: list[str] = []
    real_fsync, real_replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (events.append("sync"), real_fsync(descriptor))[1])
    monkeypatch.setattr(Path, "replace", lambda self, to: (events.append("rename"), real_replace(self, to))[1])

    write_bytes_atomic(tmp_path / "a.bin", b"1")

    assert events == ["sync", "rename", "sync"]  # file, rename, folder


def test_syncing_a_tree_reaches_every_file_and_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "weights").write_bytes(b"1")
    synced: list[str] = []
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
    )

    sync_tree(tmp_path)

    assert sorted(synced) == [str(tmp_path / name) for name in (".", "a", "a/b", "a/b/weights")]


def test_a_written_file_is_readable_for_others(tmp_path: Path):
    previous = os.umask(0o022)
    try:
        write_text_atomic(tmp_path / "a.txt", "x")
    finally:
        os.umask(previous)

    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o644


def test_json_refuses_numbers_that_are_not_finite(tmp_path: Path):
    with pytest.raises(ValueError, match="JSON"):
        write_json_atomic(tmp_path / "a.json", {"loss": float("nan")})

    assert not (tmp_path / "a.json").exists()


def test_sha256_is_the_published_one(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"abc")

    # FIPS 180-2, appendix B.1.
    assert sha256_of(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.fixture
def complete_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    (folder / "model").mkdir(parents=True)
    (folder / "state.json").write_text("{}")
    (folder / "model" / "weights.bin").write_bytes(bytes(range(256)))
    write_manifest(folder)
    return folder


def test_a_folder_with_its_manifest_is_complete(complete_folder: Path):
    assert verify_manifest(complete_folder) == []


def test_a_manifest_lists_every_file_below_the_folder(complete_folder: Path):
    files = json.loads((complete_folder / "manifest.json").read_text())["files"]

    assert {name: entry["bytes"] for name, entry in files.items()} == {"state.json": 2, "model/weights.bin": 256}


def test_a_folder_without_manifest_is_incomplete(tmp_path: Path):
    assert verify_manifest(tmp_path) == ["manifest.json is missing"]


def test_a_truncated_file_is_named_with_both_sizes(complete_folder: Path):
    os.truncate(complete_folder / "model" / "weights.bin", 100)

    assert verify_manifest(complete_folder) == ["model/weights.bin has 100 bytes instead of 256"]


def test_a_flipped_bit_is_noticed(complete_folder: Path):
    path = complete_folder / "model" / "weights.bin"
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])

    assert verify_manifest(complete_folder) == ["model/weights.bin has changed: its sha256 differs"]


def test_a_deleted_file_is_named(complete_folder: Path):
    (complete_folder / "state.json").unlink()

    assert verify_manifest(complete_folder) == ["state.json is missing"]


@pytest.mark.parametrize("text", ["", "[]", '{"files": {"state.json": {}}}', '{"files": 3}'])
def test_a_broken_manifest_is_a_problem_and_not_a_crash(complete_folder: Path, text: str):
    (complete_folder / "manifest.json").write_text(text)

    assert verify_manifest(complete_folder) == ["manifest.json is not readable"]


def test_a_locked_folder_is_made_and_an_empty_one_taken_away_again(tmp_path: Path):
    with locked_folder(tmp_path / "new"):
        assert (tmp_path / "new").is_dir()
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    with locked_folder(tmp_path / "old"):
        pass
    assert (tmp_path / "old").is_dir()


def test_a_folder_is_locked_once_until_its_process_is_killed(tmp_path: Path):
    program = (
        "import sys, time; from pathlib import Path; from rewarddance.core.files import locked_folder\n"
        "with locked_folder(Path(sys.argv[1])): print('locked', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(UsageError, match="being written by another process"), locked_folder(tmp_path):
            pass
        holder.send_signal(signal.SIGKILL)
    with locked_folder(tmp_path):
        assert list(tmp_path.iterdir()) == []


def test_a_lock_on_a_folder_ends_where_it_should_although_a_child_that_was_forked_has_it_too(tmp_path: Path):
    with locked_folder(tmp_path):
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        child.start()
    try:
        with locked_folder(tmp_path):
            pass
    finally:
        child.kill()
        child.join()
