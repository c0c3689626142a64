"""Results as JSON lines, so that a benchmark that was cut off goes on where it was."""

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parent.parent
DEFAULT_FOLDER = ROOT / "mlruns" / "benchmarks"
Record = dict[str, Any]


def append(file: Path, record: Mapping[str, Any]) -> None:
    """Add one record and let it reach the disk."""
    file.parent.mkdir(parents=True, exist_ok=True)
    before = file.read_bytes() if file.exists() else b""
    cut_off = before and not before.endswith(b"\n")
    with file.open("a", encoding="utf-8") as lines:
        lines.write(("\n" if cut_off else "") + json.dumps(record) + "\n")
        lines.flush()
        os.fsync(lines.fileno())


def matching(file: Path, key: Mapping[str, Any]) -> list[Record]:
    """Return the records that hold every item of `key`, in order; a line that was cut off is passed over."""
    found = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        try:
            record = json.loads(line)
        except ValueError:
            print(f"{file}: passed over a line that was cut off", file=sys.stderr)
            continue
        if all(record.get(name) == value for name, value in key.items()):
            found.append(record)
    return found


def surroundings() -> Record:
    """Return what results of different calls must share to be put together: the code and the machine."""
    digest = hashlib.sha256()
    for folder in ("fttune", "benchmarks"):
        for source in sorted((ROOT / folder).rglob("*.py")):
            digest.update(source.read_bytes())
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {"code": digest.hexdigest()[:12], "device": device, "cores": os.cpu_count(), "torch": torch.__version__}
