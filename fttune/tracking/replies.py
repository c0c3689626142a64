"""What a failed request says: that it can never succeed, or that it may at another time. Imports mlflow."""

import requests
from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_TIMEOUT
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import ENDPOINT_NOT_FOUND, ErrorCode
from sqlalchemy.exc import DBAPIError, IntegrityError
from urllib3.exceptions import ReadTimeoutError

from fttune.tracking.artifacts import Refused

# Credentials that ran out, an address that a proxy does not know for a while, and limits: all of them pass.
_PASSING = frozenset({401, 403, 407, 408, 425, 429, 499})


def is_refusal(error: Exception) -> bool:
    """Return whether a store will never take what it was given, so that trying again is of no use."""
    if isinstance(error, Refused):
        return True
    if isinstance(error, MlflowException):
        passing = _status(error) in _PASSING or error.error_code == ErrorCode.Name(ENDPOINT_NOT_FOUND)
        return 400 <= _status(error) < 500 and not passing and not _is_damaged(error)
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return 400 <= error.response.status_code < 500 and error.response.status_code not in {*_PASSING, 404}
    return False


def is_misconfiguration(error: Exception) -> bool:
    """Return whether a store answers, but not to this address or these credentials."""
    return isinstance(error, MlflowException) and 400 <= _status(error) < 500 and _status(error) not in (408, 429, 499)


def late_seconds(error: Exception) -> float:
    """Return how long a request that got no answer in time may still be at work: nothing is to be looked for before."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, requests.ReadTimeout | ReadTimeoutError):
        found = found.__cause__ or found.__context__
    return 0.0 if found is None else float(MLFLOW_HTTP_REQUEST_TIMEOUT.get())  # type: ignore[no-untyped-call]


def _status(error: MlflowException) -> int:
    return int(error.get_http_status_code())  # type: ignore[no-untyped-call]


def _is_damaged(error: MlflowException) -> bool:
    """Return whether a database of our own refused, and not what was to be written: MLflow calls both a bad request."""
    return isinstance(error.__cause__, DBAPIError) and not isinstance(error.__cause__, IntegrityError)
