"""Ask the public advisory database about every locked package, with pip-audit from a lock of its own.

A known vulnerability fails. No network, no answer, or none within a minute is told in one line and fails nothing: what
can be installed does not depend on it. Standard library only.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
VENV = ROOT / ".venv"
OWN = VENV / "audit"
SECONDS = 55.0


def main() -> int:
    """Return the exit code: 1 when a locked package has a known vulnerability."""
    try:
        answer = _asked(time.monotonic() + SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        said, code = f"not done ({type(error).__name__}: {str(error).splitlines()[0]})", 0
    else:
        said, code = verdict(answer)
    sys.stdout.write(f"dependency audit: {said}\n")
    return code


def verdict(answer: str) -> tuple[str, int]:
    """Return what pip-audit's JSON says, in words, and the exit code."""
    try:
        packages = json.loads(answer)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return "not done, the advisory database gave no answer", 0
    known = [package for package in packages if "skip_reason" not in package]
    found = [
        f"  {package['name']} {package['version']}: {one['id']}, fixed in {', '.join(one['fix_versions']) or 'nothing'}"
        for package in known
        for one in package["vulns"]
    ]
    if found:
        return "\n".join([f"{len(found)} known vulnerabilities; upgrade with `make lock`", *found]), 1
    if not known:
        return f"not done, the advisory database knows none of the {len(packages)} packages (a mirror without it?)", 0
    left_out = f", {len(packages) - len(known)} could not be looked up" if len(known) < len(packages) else ""
    return f"{len(known)} packages have no known vulnerability{left_out}", 0


def _asked(end: float) -> str:
    """Return what pip-audit prints, by `end` on the monotonic clock. Raises SubprocessError, OSError."""
    if not (OWN / ".installed").exists():
        _run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(OWN)], end)
        install = [str(VENV / "bin" / "uv"), "pip", "install", "--quiet", "--require-hashes", "--python", str(OWN)]
        _run([*install, "-r", str(ROOT / ".ci" / "audit.lock")], end)
        (OWN / ".installed").touch()
    audit = [str(OWN / "bin" / "python"), "-m", "pip_audit", "--progress-spinner", "off", "--format", "json"]
    locked = ["--disable-pip", "--require-hashes", "--timeout", "10", "-r", str(ROOT / "requirements.lock")]
    return _run([*audit, *locked], end, may_fail=True)


def _run(command: list[str], end: float, *, may_fail: bool = False) -> str:
    left = max(0.1, end - time.monotonic())
    return subprocess.run(command, check=not may_fail, timeout=left, capture_output=True, text=True).stdout


if __name__ == "__main__":
    sys.exit(main())
