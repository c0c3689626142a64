"""A worker in a cluster is asked for what it says all the time, or its lease would run out."""

import pickle
import sys
import time
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from fttune.app.cluster import Remote

MANY = [pickle.dumps("x" * 1000)] * 100
ROUNDS = 5


class Actor:
    """Says more in each round than a pipe holds, and then that it has ended."""

    def __init__(self) -> None:
        self.rounds = 0
        self.send = SimpleNamespace(remote=lambda _: None)
        self.receive = SimpleNamespace(remote=self._receive)

    def _receive(self) -> tuple[list[bytes], str | None]:
        self.rounds += 1
        return MANY, "killed" if self.rounds == ROUNDS else None


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for Ray: what an actor returns is there at once."""
    module: Any = ModuleType("ray")
    module.get = lambda found, **_: found
    module.exceptions = SimpleNamespace(RayError=RuntimeError)
    monkeypatch.setitem(sys.modules, "ray", module)


@pytest.mark.usefixtures("ray")
def test_a_search_that_is_busy_elsewhere_still_renews_the_lease_and_misses_nothing() -> None:
    actor = Actor()
    remote = Remote(actor, "job", lambda _: None)
    end = time.monotonic() + 30
    while actor.rounds < ROUNDS:
        assert time.monotonic() < end, f"asked {actor.rounds} times while nobody read"
        time.sleep(0.01)
    assert [remote.recv() for _ in range(ROUNDS * len(MANY))] == ["x" * 1000] * (ROUNDS * len(MANY))
    with pytest.raises(EOFError):
        remote.recv()
    assert remote.cause() == "killed"
