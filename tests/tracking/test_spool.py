import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fttune.app.session import target_of
from fttune.config.experiment import as_param
from fttune.config.workspace import Workspace
from fttune.errors import CannotWrite
from fttune.tracking.records import KINDS, as_line, as_record, of_line, of_record
from fttune.tracking.spool import CAUSE, Spool, Target, entries_of, spool_files, waiting_in
from fttune.training.events import Entry, EpochEnded, Event, RunClosed, RunOpened

text = st.text(max_size=20)
names = st.dictionaries(text, text, max_size=3)
numbers = st.dictionaries(text, st.floats(allow_nan=False), max_size=3)
paths = st.text(st.characters(blacklist_characters="\0/"), min_size=1, max_size=9).map(Path)
VALUES: dict[Any, st.SearchStrategy[Any]] = {
    "tags": names,
    "params": st.dictionaries(text, text | st.integers() | st.none() | st.lists(text), max_size=3),
    "metrics": numbers,
    "path": paths,
    "checkpoint": paths,
    "plugins": st.lists(paths, max_size=2).map(tuple),
    "parent": text | st.none(),
    "reopen": st.booleans(),
}
COUNTS = ("epoch", "unix_ms", "unsettled", "phase", "image_size")


def events() -> st.SearchStrategy[Event]:
    def of(kind: type) -> st.SearchStrategy[Any]:
        fields = kind.__dataclass_fields__  # type: ignore[attr-defined]
        values = {name: st.integers(0, 2**53) if name in COUNTS else VALUES.get(name, text) for name in fields}
        return st.builds(kind, **values)

    return st.one_of(*map(of, KINDS.values()))


@pytest.fixture
def target(tmp_path: Path) -> Target:
    return target_of(Workspace.at(tmp_path), "http://anna:hunter2@127.0.0.1:9")


def opened(number: int) -> Entry:
    return Entry(f"s/{number}", RunOpened(f"t{number}", "pets"))


def read(spool: Spool) -> list[Entry]:
    return [Entry(group.run, event) for group in spool.read() for event in group.events]


@given(text, events())
def test_every_event_comes_back_from_its_line_as_it_was(run: str, event: Event) -> None:
    line = as_line(as_record(Entry(run, event)))
    content = of_line(line)
    assert content is not None
    assert (line.count(b"\n"), line[-1:], line.isascii()) == (1, b"\n", True)
    found = of_record(content)
    assert found is not None
    wanted = dict(vars(event))
    if isinstance(event, RunOpened):
        wanted["params"] = {name: as_param(value) for name, value in event.params.items()}
    assert (found.run, type(found.event), vars(found.event)) == (run, type(event), wanted)


@given(events(), st.integers(0, 10_000), st.integers(0, 255))
def test_a_damaged_line_is_known(event: Event, place: int, byte: int) -> None:
    line = as_line(as_record(Entry("s", event)))
    place %= len(line) - 1
    assert of_line(line[:place]) is None
    damaged = line[:place] + bytes([byte]) + line[place + 1 :]
    assert damaged == line or of_line(damaged) is None


def test_what_another_version_wrote_is_not_guessed_at() -> None:
    record = as_record(opened(0))
    assert of_record({**record, "kind": "RunArchived"}) is None
    assert of_record({**record, "colour": "red"}) is None


def test_a_spool_is_locked_by_its_owner_and_knows_no_password(target: Target) -> None:
    spool = Spool.create(target)
    spool.append(opened(0))
    assert Spool.take(spool.file) is None
    assert (spool.file.stat().st_mode & 0o777, b"hunter2" in spool.file.read_bytes()) == (0o600, False)
    spool.release()
    later = Spool.take(spool.file)
    assert later is not None
    assert (later.uri, later.artifacts) == ("http://anna:***@127.0.0.1:9", target.artifacts)
    assert read(later) == [opened(0)]
    later.remove()
    assert (Spool.take(spool.file), list(target.spools.iterdir())) == (None, [])


def test_reading_goes_on_where_deliveries_were_noted_even_in_the_middle(target: Target) -> None:
    spool = Spool.create(target)
    for number in range(3):
        spool.append(opened(number))
    groups = spool.read()
    spool.record(2, len(groups))
    spool.append(opened(3))
    spool.release()
    (waiting,) = waiting_in(target.spools)
    assert (waiting.runs, waiting.events) == (2, 2)
    later = Spool.take(spool.file)
    assert later is not None
    again = later.read()
    assert ([group.run for group in again], later.done) == (["s/0", "s/1", "s/2"], 2)
    later.record(3, 3)
    assert read(later) == [opened(3)]
    later.record(1, 1)
    assert later.is_delivered
    later.release()


@pytest.mark.parametrize("position", ["", "12", "x y z", "0 0"])
def test_a_damaged_position_means_that_all_is_looked_for_again(position: str, target: Target) -> None:
    spool = Spool.create(target)
    spool.append(opened(0))
    spool.read()
    spool.record(1, 1)
    spool.release()
    spool.file.with_suffix(".position").write_text(position)
    later = Spool.take(spool.file)
    assert later is not None
    assert read(later) == [opened(0)]
    later.release()


@pytest.mark.parametrize("kept", range(1, 40, 13))
def test_a_line_that_was_cut_off_is_dropped_and_what_comes_later_is_not(kept: int, target: Target) -> None:
    spool = Spool.create(target)
    spool.append(opened(0))
    whole = spool.size
    spool.append(opened(1))
    spool.release()
    os.truncate(spool.file, whole + kept)
    later = Spool.take(spool.file)
    assert later is not None
    later.append(opened(2))
    groups = later.read()
    assert [Entry(group.run, event) for group in groups for event in group.events] == [opened(0), opened(2)]
    assert [len(line) for group in groups for line in group.damaged] == [kept + 1]
    later.release()


def test_a_full_disk_is_said_and_what_was_written_stays(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool.create(target)
    spool.append(opened(0))
    write = os.write

    def full(descriptor: int, content: bytes) -> int:
        if len(content) < 20:
            raise OSError(28, "No space left on device")
        return write(descriptor, content[: len(content) // 2])

    with monkeypatch.context() as failing:
        failing.setattr("os.write", full)
        with pytest.raises(CannotWrite, match=r"jsonl: the disk is full .*free some of it"):
            spool.append(opened(1))
    spool.append(opened(2))
    assert list(entries_of(spool.file)) == [opened(0), opened(2)]
    spool.release()


def test_runs_that_a_dead_session_left_open_are_closed_children_first(target: Target) -> None:
    spool = Spool.create(target)
    entries = [Entry("s", RunOpened("s", "pets")), opened(0), opened(1), Entry("s/0", RunClosed("complete"))]
    for entry in entries:
        spool.append(entry)
    for _ in range(2):  # once, however often it is taken over
        spool.release()
        later = Spool.take(spool.file)
        assert later is not None
        spool = later
        spool.close_open_runs()
    closed = RunClosed("interrupted", {"fttune.cause": CAUSE})
    assert list(entries_of(spool.file))[4:] == [Entry("s/1", closed), Entry("s", closed)]
    spool.release()


def test_a_spool_whose_owner_died_before_its_first_line_is_removed(target: Target) -> None:
    target.spools.mkdir(parents=True)
    (target.spools / "20260101T000000.000000Z-abcdef.jsonl").write_bytes(b'{"crc":"0')
    assert Spool.take(spool_files(target.spools)[0]) is None
    assert spool_files(target.spools) == []


def test_lines_longer_than_what_is_read_at_once_are_read(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fttune.tracking.spool.CHUNK_BYTES", 300)
    spool = Spool.create(target)
    entries = [Entry("s", EpochEnded(epoch, {"m" * 10 * epoch: 1.0}, epoch)) for epoch in range(1, 60)]
    for entry in entries:
        spool.append(entry)
    found = []
    while groups := spool.read():
        found += [Entry(group.run, event) for group in groups for event in group.events]
        spool.record(len(groups), len(groups))
    assert found == entries
    spool.release()
