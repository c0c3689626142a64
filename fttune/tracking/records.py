"""Events as lines of text, each with a checksum, so that a line that a crash cut off is known for what it is."""

import json
import zlib
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from numbers import Real
from pathlib import Path
from typing import Any, get_args, get_type_hints

from fttune.config.experiment import as_param
from fttune.training.events import Entry, Event, Notice, StudyProgress

FOR_PEOPLE = (Notice, StudyProgress)
KINDS = {kind.__name__: kind for kind in get_args(Event) if kind not in FOR_PEOPLE}
_HEAD, _TAIL = '{"crc":"', "}"
_BODY = len(_HEAD) + len('00000000","of":')


def as_line(content: Mapping[str, Any]) -> bytes:
    """Return plain data as one line of ASCII, which is JSON and ends in a line feed."""
    body = json.dumps(content, default=_plain, separators=(",", ":"))
    return f'{_HEAD}{zlib.crc32(body.encode()):08x}","of":{body}{_TAIL}\n'.encode()


def of_line(line: bytes) -> dict[str, Any] | None:
    """Return what `as_line` was given, None when the line is damaged."""
    body = line.rstrip(b"\n")[_BODY : -len(_TAIL)]
    if not body or line.rstrip(b"\n") != f'{_HEAD}{zlib.crc32(body):08x}","of":'.encode() + body + _TAIL.encode():
        return None
    found: dict[str, Any] = json.loads(body)
    return found


def as_record(entry: Entry) -> dict[str, Any]:
    """Return an entry as plain data; params as MLflow stores them."""
    event = entry.event
    values = {each.name: getattr(event, each.name) for each in fields(event)}
    if "params" in values:
        values["params"] = {name: as_param(value) for name, value in values["params"].items()}
    return {"run": entry.run, "kind": type(event).__name__, **values}


def of_record(record: Mapping[str, Any]) -> Entry | None:
    """Return the entry of plain data, None for an event that this version does not know."""
    run, kind, *_ = record.get("run"), record.get("kind")
    if not isinstance(run, str) or kind not in KINDS:
        return None
    hints = _hints(kind)
    try:
        values = {name: _typed(hints[name], value) for name, value in record.items() if name not in ("run", "kind")}
        return Entry(run, KINDS[kind](**values))
    except (KeyError, TypeError):  # another version's event has other fields
        return None


@cache
def _hints(kind: str) -> dict[str, Any]:
    return get_type_hints(KINDS[kind])


def _typed(hint: Any, value: Any) -> Any:
    if hint is Path:
        return Path(value)
    if isinstance(value, list) and get_args(hint):
        return tuple(_typed(get_args(hint)[0], one) for one in value)
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Real):  # NumPy's numbers
        return float(value)
    raise TypeError(f"{type(value).__name__} has no place in an event")
