"""Units for schedulers: each is one that the scheduler can read, and runs the command with its words as they are."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from fttune.cli import app
from fttune.nightly.units import UNITS, unit_text

ROOT = Path("/srv/my studies/50%")
OPTIONS = ["studies", "--mlruns", "my runs", "--budget-hours", "6", "--on-finish", "tee 'last night.json'"]
WORDS = ["fttune", "nightly", *OPTIONS]


def cron_lines(text: str) -> list[tuple[list[str], str]]:
    """Return schedule and command of each line of a crontab, as cron reads it (crontab(5))."""
    found = []
    for line in text.splitlines():
        if not line.startswith("#") and line.strip():
            *schedule, command = line.split(maxsplit=5)
            ranges = zip(schedule, ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7)), strict=True)
            assert all(field == "*" or low <= int(field) <= high for field, (low, high) in ranges), line
            found.append((schedule, re.split(r"(?<!\\)%", command)[0].replace(r"\%", "%")))
    return found


def test_a_crontab_runs_the_command_in_the_folder() -> None:
    ((schedule, command),) = cron_lines(unit_text("cron", OPTIONS, ROOT))
    assert schedule == ["0", "1", "*", "*", "*"]
    assert shlex.split(command) == ["cd", str(ROOT), "&&", *WORDS, ">>", "mlruns/nightly.log", "2>&1"]


def test_a_workflow_of_github_runs_the_command_in_the_folder() -> None:
    found = yaml.safe_load(unit_text("github", OPTIONS, ROOT))
    assert cron_lines(f"{found[True]['schedule'][0]['cron']} x") == [(["0", "1", "*", "*", "*"], "x")]  # on: is true
    (job,) = found["jobs"].values()
    assert job["defaults"]["run"]["working-directory"] == str(ROOT)
    assert [shlex.split(step["run"]) for step in job["steps"]] == [WORDS]
    assert found["concurrency"]["cancel-in-progress"] is False


def test_a_cron_job_of_kubernetes_runs_the_command_in_the_folder() -> None:
    found = yaml.safe_load(unit_text("kubernetes", OPTIONS, ROOT))
    assert (found["apiVersion"], found["kind"], found["spec"]["concurrencyPolicy"]) == ("batch/v1", "CronJob", "Forbid")
    pod = found["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert (container["command"], container["workingDir"]) == (WORDS, str(ROOT))
    assert [mount["name"] for mount in container["volumeMounts"]] == [volume["name"] for volume in pod["volumes"]]


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_a_batch_script_of_slurm_is_one_of_bash_and_passes_its_order_to_stop_on(tmp_path: Path) -> None:
    text = unit_text("slurm", OPTIONS, ROOT)
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    asked = dict(re.findall(r"^#SBATCH --([a-z]+)=(.*)$", text, re.MULTILINE))
    assert (asked["chdir"], asked["time"], asked["signal"]) == (str(ROOT), "420", "B:TERM@600")
    fake = tmp_path / "fttune"
    fake.write_text(
        '#!/bin/bash\nprintf "%s\\n" "$@" > args\ntrap "echo stopped > told; exit 143" TERM\nsleep 20 & wait\n'
    )
    fake.chmod(0o755)
    script = subprocess.Popen(["bash", "-c", text], cwd=tmp_path, env={"PATH": f"{tmp_path}:/usr/bin:/bin"})
    while not (tmp_path / "args").exists() or not (tmp_path / "args").read_text():
        assert script.poll() is None
    script.terminate()
    script.wait(15)
    assert (tmp_path / "args").read_text().splitlines() == WORDS[1:]
    assert (tmp_path / "told").exists()


def test_units_of_systemd_are_two_files_that_it_can_read(tmp_path: Path) -> None:
    text = unit_text("systemd", OPTIONS, ROOT)
    service, timer = re.split(r"\n# [^\n]*fttune-nightly\.timer[^\n]*\n", text)
    assert re.search(r'^ExecStart="/usr/bin/env" "fttune" "nightly" "studies"', service, re.MULTILINE)
    assert "WorkingDirectory=/srv/my studies/50%%" in service
    assert "OnCalendar=*-*-* 01:00:00" in timer
    if shutil.which("systemd-analyze"):
        for name, content in (("service", service), ("timer", timer)):
            (tmp_path / f"fttune-nightly.{name}").write_text(content)
        verify = ["systemd-analyze", "verify", *map(str, sorted(tmp_path.glob("fttune-nightly.*")))]
        found = subprocess.run(verify, capture_output=True, text=True, check=False)
        own = [line for line in found.stderr.splitlines() if "fttune-nightly" in line]
        assert own == []


@pytest.mark.parametrize("kind", UNITS)
def test_the_command_prints_a_unit_and_does_nothing_else(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(app, ["nightly", "studies", "--budget-hours", "6", "--print", kind])
    assert found.exit_code == 0
    assert found.stdout == unit_text(kind, ["studies", "--budget-hours", "6"], tmp_path)
    assert list(tmp_path.iterdir()) == []
