"""What CI makes of the answers of the advisory database; and locks that hold hashes and no addresses."""

import json
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
verdict = runpy.run_path(str(ROOT / ".ci" / "audit.py"))["verdict"]
GOOD = {"name": "torch", "version": "2.15.0", "vulns": []}
BAD = {"name": "pillow", "version": "9.0", "vulns": [{"id": "CVE-2022-24303", "fix_versions": ["9.0.1"]}]}
UNKNOWN = {"name": "timm", "skip_reason": "not found"}


def told(*packages: object) -> tuple[str, int]:
    said, code = verdict(json.dumps({"dependencies": packages, "fixes": []}))
    return said, code


def test_a_known_vulnerability_fails_and_is_named_with_its_fix() -> None:
    said, code = told(GOOD, BAD, UNKNOWN)
    assert code == 1
    assert "pillow 9.0: CVE-2022-24303, fixed in 9.0.1" in said


def test_packages_without_one_pass_and_those_not_looked_up_are_counted() -> None:
    assert told(GOOD) == ("1 packages have no known vulnerability", 0)
    assert told(GOOD, UNKNOWN) == ("1 packages have no known vulnerability, 1 could not be looked up", 0)


@pytest.mark.parametrize("answer", ["", "Traceback", "[]", "{}", json.dumps({"dependencies": [UNKNOWN]})])
def test_no_answer_is_told_in_one_line_and_fails_nothing(answer: str) -> None:
    said, code = verdict(answer)
    assert (code, said.count("\n")) == (0, 0)
    assert said.startswith("not done")


@pytest.mark.parametrize("lock", ["requirements.lock", ".ci/audit.lock"])
def test_every_locked_package_has_its_hashes_and_no_address(lock: str) -> None:
    text = (ROOT / lock).read_text(encoding="utf-8")
    assert "://" not in text
    blocks = re.split(r"\n(?=[a-z0-9])", re.sub(r"(?m)^ *#.*\n", "", text))
    assert blocks
    assert all(re.match(r"[a-z0-9.-]+(\[[a-z,]+\])?==\S+", block) and "--hash=sha256:" in block for block in blocks)
