"""Where a study's trials train: in processes of this machine, or in a Ray cluster. No part of a study's identity."""

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator

from fttune.config import known
from fttune.config.sections import Line, Section, broken

LOCAL = "local"
MOST = 1000
EXAMPLES = "such as s3://bucket/folder or file:///nfs/folder"


def _count_or_auto(value: object) -> object:
    if value != "auto" and not (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST):
        raise broken(f"must be a whole number from 1 to {MOST}, or auto, got {known.shown(value)}")
    return value


class Processes(Section):
    """So many processes of this machine, one being the search itself; `auto` is one for each GPU."""

    type: Literal["processes"] = "processes"
    count: Annotated[int | Literal["auto"], BeforeValidator(_count_or_auto)] = 1

    @property
    def shown(self) -> str:
        """The short form."""
        return str(self.count)


class Cluster(Section):
    """Workers in a Ray cluster: one that lasts as long as the command (`local`), or the one at HOST:PORT.

    `count` workers, by default as many as there is room for at the start; more wait for machines that come later. Each
    takes `gpus_per_trial` (a share below 1 allowed; by default 1 where there are GPUs) and `cpus_per_trial`, which are
    torch's threads too. At `shared`, a URL of fsspec's, machines exchange what they generate; without it they see the
    same generated folder.
    """

    type: Literal["ray"] = "ray"
    address: Line = LOCAL
    count: Annotated[int, Field(ge=1, le=MOST)] | None = None
    gpus_per_trial: Annotated[float, Field(ge=0)] | None = None
    cpus_per_trial: Annotated[int, Field(ge=1)] = 1
    shared: Line | None = None

    @property
    def shown(self) -> str:
        """The short form."""
        return "ray" if self.address == LOCAL else self.address

    @field_validator("address")
    @classmethod
    def _local_or_host(cls, address: str) -> str:
        if address != LOCAL and not re.fullmatch(r"[^\s/:]+:[0-9]{1,5}", address):
            raise broken(f"must be local or HOST:PORT, of the cluster's head, got {known.shown(address)}")
        return address

    @field_validator("shared")
    @classmethod
    def _reached_by_all(cls, url: str | None) -> str | None:
        if url is not None and not re.fullmatch(r"(?!memory:|file://[^/])[a-z][a-z0-9+.-]*://[^\s:][^\s]*", url):
            raise broken(f"must be a URL that all machines reach, {EXAMPLES}, got {known.shown(url)}")
        return url

    @field_validator("gpus_per_trial")
    @classmethod
    def _share_or_whole(cls, gpus: float | None) -> float | None:
        if gpus is not None and gpus > 1 and not gpus.is_integer():
            raise broken(f"must be a share of one GPU or whole GPUs, got {gpus:g}")
        return gpus


def _in_full(value: object) -> object:
    """Return the mapping that a short form stands for; what is none is left to the sections."""
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool)):
        return {"type": "processes", "count": value}
    if value == "ray":
        return {"type": "ray"}
    if isinstance(value, str) and ":" in value:
        return {"type": "ray", "address": value}
    if not isinstance(value, dict | Section):
        forms = "a whole number, auto, ray, HOST:PORT of a Ray cluster or a mapping with type"
        raise broken(f"must be {forms}, got {known.shown(value)}")
    return value


Workers = Annotated[Processes | Cluster, Field(discriminator="type"), BeforeValidator(_in_full)]
