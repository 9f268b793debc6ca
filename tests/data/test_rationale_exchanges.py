from pathlib import Path

import pytest

from rewarddance.core.errors import DataError, UsageError
from rewarddance.data.rationale_exchanges import EXCHANGES_NAME, Exchange, ExchangeStore, Reply, exchange_key


def exchange(key: str = "k", text: str | None = "image 1 is dark", **changes: object) -> Exchange:
    return Exchange("teacher", key, "a", "somebody", Reply("why?", text, **changes))


def test_what_was_stored_is_found_again_by_another_process_of_the_same_work(tmp_path: Path):
    with ExchangeStore(tmp_path) as store:
        store.add(exchange(raw_text="half\nline é", tries=2, prompt_tokens=7))

    with ExchangeStore(tmp_path) as store:
        assert store.find("teacher", "k") == exchange(raw_text="half\nline é", tries=2, prompt_tokens=7).reply
        assert store.find("judge", "k") is None


def test_an_exchange_is_on_the_disk_before_the_store_is_closed(tmp_path: Path):
    with ExchangeStore(tmp_path) as store:
        store.add(exchange())

        assert (tmp_path / EXCHANGES_NAME).read_bytes().endswith(b"}\n")


def test_a_later_reply_stands_for_the_earlier_one_and_both_are_kept(tmp_path: Path):
    with ExchangeStore(tmp_path) as store:
        store.add(exchange(text=None, failure="timed_out", is_final=False))
        store.add(exchange(text="image 2 is dark"))

    with ExchangeStore(tmp_path) as store:
        assert store.find("teacher", "k").text == "image 2 is dark"
    assert len((tmp_path / EXCHANGES_NAME).read_text().splitlines()) == 2


def test_half_a_line_at_the_end_is_cut_off_and_does_not_spoil_the_next(tmp_path: Path):
    with ExchangeStore(tmp_path) as store:
        store.add(exchange("first"))
    with (tmp_path / EXCHANGES_NAME).open("ab") as file:
        file.write('{"role": "teacher", "key": "torn é'.encode()[:-1])

    with ExchangeStore(tmp_path) as store:
        store.add(exchange("second"))
    with ExchangeStore(tmp_path) as store:
        assert store.find("teacher", "first") is not None
        assert store.find("teacher", "second") is not None


def test_a_damaged_line_before_the_last_is_named(tmp_path: Path):
    (tmp_path / EXCHANGES_NAME).write_text('{"role": "teacher"}\n')

    with pytest.raises(DataError, match="line 1"):
        ExchangeStore(tmp_path)


def test_two_processes_do_not_write_to_one_folder(tmp_path: Path):
    with ExchangeStore(tmp_path), pytest.raises(UsageError, match="another process"):
        ExchangeStore(tmp_path)


def test_the_key_changes_with_everything_that_it_is_made_of():
    assert len({exchange_key("a", "b"), exchange_key("ab"), exchange_key("a", None), exchange_key("a", {"b": 1})}) == 4
