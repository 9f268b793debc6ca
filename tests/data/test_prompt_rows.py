import hashlib
from pathlib import Path

import pytest

from rewarddance.data import prompt_rows
from rewarddance.data.prompt_rows import has_files


def test_a_file_is_read_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    read: list[str] = []

    def counted(path: Path) -> str:
        read.append(path.name)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    monkeypatch.setattr(prompt_rows, "sha256_of", counted)
    (tmp_path / "a.png").write_bytes(b"one")
    files = {"a.png": hashlib.sha256(b"one").hexdigest()}
    assert has_files(tmp_path, files)
    assert has_files(tmp_path, files)
    assert read == ["a.png"]
    (tmp_path / "a.png").write_bytes(b"other")
    assert not has_files(tmp_path, files)
    (tmp_path / "a.png").unlink()
    assert not has_files(tmp_path, files)
