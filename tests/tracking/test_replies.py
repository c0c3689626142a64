"""Which failures are for good, which pass, and which may still be at work: each as the client raises it."""

from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from fttune.tracking.artifacts import Refused
from fttune.tracking.replies import is_misconfiguration, is_refusal, late_seconds
from tests.faults.stand_in import Refusal, Schedule, StandIn, serving


def failure(server: StandIn) -> Exception:
    with serving(server) as uri, pytest.raises(Exception) as failed:
        MlflowClient(uri).search_experiments()
    return failed.value


@pytest.mark.parametrize("fault", ["refuse", "error", "half", "cut", "hang"])
def test_a_server_in_trouble_refuses_nothing_for_good(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    error = failure(StandIn(Schedule(probability=1.0, faults=(fault,))))
    assert not is_refusal(error)
    assert not is_misconfiguration(error)
    assert late_seconds(error) == (fault == "hang"), "it may be carried out though nobody waits for it any more"


@pytest.mark.parametrize(
    ("code", "status", "for_good", "at_the_start"),
    [
        ("INVALID_PARAMETER_VALUE", 400, True, True),
        ("RESOURCE_DOES_NOT_EXIST", 404, True, True),
        ("UNAUTHENTICATED", 401, False, True),
        ("PERMISSION_DENIED", 403, False, True),
        ("ENDPOINT_NOT_FOUND", 404, False, True),
        ("REQUEST_LIMIT_EXCEEDED", 429, False, False),
        ("INTERNAL_ERROR", 500, False, False),
        ("TEMPORARILY_UNAVAILABLE", 503, False, False),
    ],
)
def test_an_answer_is_for_good_by_its_code(
    code: str, status: int, for_good: bool, at_the_start: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise Refusal(code, status, "no")

    monkeypatch.setattr(StandIn, "answer", refuse)
    error = failure(StandIn(Schedule()))
    assert (is_refusal(error), is_misconfiguration(error), late_seconds(error)) == (for_good, at_the_start, 0.0)


def test_a_database_in_trouble_refuses_nothing_for_good(tmp_path: Path) -> None:
    (tmp_path / "no.db").write_bytes(b"no database" * 1000)
    with pytest.raises(Exception, match="not a database") as failed:
        MlflowClient(f"sqlite:///{tmp_path / 'no.db'}").search_experiments()
    assert not is_refusal(failed.value)
    assert not is_refusal(OSError(28, "No space left on device"))
    assert is_refusal(Refused("a symlink"))
