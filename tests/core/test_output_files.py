import os
import socket
from pathlib import Path

import pytest

from rewarddance.core.errors import UsageError
from rewarddance.core.output_files import output_file


def test_a_new_file_and_one_in_a_folder_that_is_not_there_yet_may_be_written(tmp_path: Path):
    assert output_file(tmp_path / "a" / "b.html", "<!doctype html>") == tmp_path / "a" / "b.html"


def test_a_link_stands_for_its_target(tmp_path: Path):
    (tmp_path / "link").symlink_to(tmp_path / "target")
    assert output_file(tmp_path / "link") == (tmp_path / "target").resolve()
    (tmp_path / "target").write_text("<!DOCTYPE html>")
    assert output_file(tmp_path / "link", "<!doctype html>") == (tmp_path / "target").resolve()


def test_a_folder_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="is a folder; give the name of a file"):
        output_file(tmp_path)


def test_what_is_no_ordinary_file_is_refused_also_through_a_link(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        # The name of a socket has few characters.
        descriptor = os.open(tmp_path, os.O_RDONLY)
        listener.bind(f"/proc/self/fd/{descriptor}/socket")
        os.close(descriptor)
    for name in ("pipe", "link", "socket"):
        with pytest.raises(UsageError, match=f"{name} is not an ordinary file"):
            output_file(tmp_path / name)


def test_a_name_below_a_file_is_refused(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        output_file(tmp_path / "file" / "page.html")


@pytest.mark.parametrize(("content", "is_replaced"), [("", True), ("\n<!DOCTYPE HTML>", True), ('{"a": 1}', False)])
def test_only_files_of_the_same_kind_are_replaced(content: str, is_replaced: bool, tmp_path: Path):
    path = tmp_path / "page.html"
    path.write_text(content)
    if is_replaced:
        assert output_file(path, "<!doctype html>") == path
    else:
        with pytest.raises(UsageError, match="holds something else already"):
            output_file(path, "<!doctype html>")
