"""Where stores may lie: the kinds of databases and servers that a URL can name. Opens none of them."""

from fttune.config.known import one_of, shown
from fttune.config.sections import broken
from fttune.errors import BadInput, is_one_line

STORES = ("sqlite", "postgresql", "mysql", "mariadb", "mssql", "oracle")  # those of SQLAlchemy
SERVERS = ("http", "https", "file", "databricks", "databricks-uc", "uc")


def require_kind(url: str, kinds: tuple[str, ...]) -> str:
    """Return a URL whose kind, a driver after `+` left out, is one of `kinds`. Raises pydantic's error of a rule."""
    if rule := _refusal(url, kinds):
        raise broken(rule)
    return url


def require_tracking_variable(url: str) -> None:
    """Refuse a value of `MLFLOW_TRACKING_URI` that names no store of MLflow. Raises BadInput."""
    rule = _refusal(url, (*STORES, *SERVERS))
    if url and url not in SERVERS and (rule or not is_one_line(url)):
        raise BadInput(f"MLFLOW_TRACKING_URI: {rule or f'must be one line, got {shown(url)}'}; correct or unset it")


def is_database(url: str) -> bool:
    """Return whether a URL names a database, and no server in front of one."""
    return kind_of(url) in STORES


def kind_of(url: str) -> str:
    """Return the kind of a URL, a driver after `+` left out; all of it where it is no URL."""
    return url.partition("://")[0].partition("+")[0]


def _refusal(url: str, kinds: tuple[str, ...]) -> str | None:
    kind, colon, _ = url.partition("://")
    if not colon:
        return f"must be a URL such as sqlite:///FILE or http://127.0.0.1:5000, got {shown(url)}"
    return None if kind_of(url) in kinds else f"of a URL the kind {one_of(kind, kinds)}"
