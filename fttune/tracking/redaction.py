"""What must not be told: secrets become `***`, characters that steer a terminal become visible. Pure, and idempotent.

Secrets are known by the name of what holds them (`api_key`, `hub.token`), by their place in a URL
(`scheme://user:password@host`), and by shapes that vendors gave them. Digests, ids and numbers have none of these.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

from fttune.errors import printable
from fttune.training.events import Entry

HIDDEN = "***"
_WORDS = frozenset(
    "password passwd passphrase passcode pwd token secret secrets apikey auth authorization credential credentials "  # noqa: SIM905
    "bearer cookie".split()
)
_PAIRS = frozenset({("api", "key"), ("access", "key"), ("private", "key"), ("secret", "key"), ("account", "key")})
_PART = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])")
_URL_PASSWORD = re.compile(r"(?P<scheme>\b[A-Za-z][A-Za-z0-9+.-]*://)(?P<user>[^\s/?#:@]*):(?P<password>[^\s/?#]*)@")
_SECRET_ARGUMENT = re.compile(r"(?P<name>[A-Za-z][\w-]*)(?P<sign>=|: ?)(?P<value>[^\s&;,'\"]+)")
_SHAPES = re.compile(
    r"""
      \bgh[pousr]_[A-Za-z0-9]{20,} | \bgithub_pat_\w{20,} | \bglpat-[\w-]{16,}   # GitHub, GitLab
    | \b(?:AKIA|ASIA)[0-9A-Z]{16}\b | \bAIza[\w-]{35}                            # AWS, Google
    | \bhf_[A-Za-z0-9]{20,} | \bsk-[\w-]{20,} | \bsk_live_\w{16,}                # Hugging Face, OpenAI, Stripe
    | \bxox[abeoprs]-[\w-]{10,} | \bdapi[0-9a-f]{32}\b                           # Slack, Databricks
    | \bpypi-[\w-]{20,} | \bnpm_[A-Za-z0-9]{30,}
    | \beyJ[\w-]{6,}\.[\w-]{6,}\.[\w-]{6,}                                       # JSON web tokens
    | -----BEGIN[ A-Z]*PRIVATE[ ]KEY-----.*?(?:-----END[ A-Z]*PRIVATE[ ]KEY-----|\Z)
    | (?<=\bBearer\ )[\w.~+/-]{8,}=* | (?<=\bBasic\ )[A-Za-z0-9+/]{8,}=*
    """,
    re.VERBOSE | re.DOTALL,
)


def redacted(entry: Entry) -> Entry:
    """Return an entry with the text of its event redacted; names, keys of runs and paths stay as they are."""
    said = vars(entry.event)
    changed: dict[str, Any] = {name: redacted_values(said[name]) for name in ("tags", "params") if name in said}
    if "text" in said:
        changed["text"] = redacted_text(said["text"])
    return replace(entry, event=replace(entry.event, **changed)) if changed else entry


def redacted_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return named values, those with secret names hidden, the text of all others redacted."""
    return {_visible(name): HIDDEN if is_secret(name) else _redacted(value) for name, value in values.items()}


def redacted_text(text: str) -> str:
    """Return text without passwords in URLs, values of secret names and known shapes of tokens, made `printable`."""
    if text.isalnum() and text.isascii() and len(text) < 20:
        return text  # most values: numbers, names
    text = _URL_PASSWORD.sub(rf"\g<scheme>\g<user>:{HIDDEN}@", text)
    text = _SHAPES.sub(HIDDEN, text)
    text = _SECRET_ARGUMENT.sub(_without_value, text)
    return _visible(text)


@lru_cache(4096)
def is_secret(name: str) -> bool:
    """Return whether a name says that its value is a secret: `api_key`, `hub.token`, not `num_tokens`."""
    parts = [part.lower() for part in _PART.findall(name)]
    return not _WORDS.isdisjoint(parts) or any(pair in _PAIRS for pair in pairwise(parts))


def _visible(text: str) -> str:
    return printable(text, breaks="\n\t")


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return redacted_text(value)
    return [_redacted(one) for one in value] if isinstance(value, list | tuple) else value


def _without_value(found: re.Match[str]) -> str:
    """Hide what follows a secret name, but not the word that announces it: `Authorization: Bearer ***`."""
    if not is_secret(found["name"]) or found["value"] in ("Bearer", "Basic"):
        return found[0]
    return f"{found['name']}{found['sign']}{HIDDEN}"
