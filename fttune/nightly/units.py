"""Units that run a folder's studies every night, for the scheduler that is there. Pure text."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

AT = "01:00"  # local time of the scheduler


def unit_text(kind: str, options: Sequence[str], root: Path) -> str:
    """Return the unit of a scheduler that runs `fttune nightly` with these words in the directory `root`."""
    return UNITS[kind](["fttune", "nightly", *options], root)


def _cron(words: Sequence[str], root: Path) -> str:
    hour, minute = AT.split(":")
    # A percent sign ends the command of a crontab.
    command = f"cd {shlex.quote(str(root))} && {shlex.join(words)} >> mlruns/nightly.log 2>&1".replace("%", r"\%")
    return f"# crontab -e; fttune must be on the PATH\n{int(minute)} {int(hour)} * * * {command}\n"


def _systemd(words: Sequence[str], root: Path) -> str:
    command = " ".join(_systemd_word(word) for word in ("/usr/bin/env", *words))
    directory = str(root).replace("%", "%%")
    return f"""# ~/.config/systemd/user/fttune-nightly.service
[Unit]
Description=fttune nightly

[Service]
Type=oneshot
WorkingDirectory={directory}
ExecStart={command}
TimeoutStopSec=15min
KillMode=mixed

# ~/.config/systemd/user/fttune-nightly.timer; then: systemctl --user enable --now fttune-nightly.timer
[Unit]
Description=fttune nightly, every night

[Timer]
OnCalendar=*-*-* {AT}:00
Persistent=true

[Install]
WantedBy=timers.target
"""


def _systemd_word(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'


def _github(words: Sequence[str], root: Path) -> str:
    return f"""# .github/workflows/nightly.yaml; a runner of your own, which keeps {root}
name: nightly
on:
  schedule:
    - cron: "{_minute_first()}"
  workflow_dispatch:
concurrency:
  group: fttune-nightly
  cancel-in-progress: false
jobs:
  nightly:
    runs-on: self-hosted
    timeout-minutes: 1440
    defaults:
      run:
        working-directory: {_yaml(str(root))}
    steps:
      - run: {_yaml(shlex.join(words))}
"""


def _slurm(words: Sequence[str], root: Path) -> str:
    minutes = 60 * float(words[words.index("--budget-hours") + 1])
    return f"""#!/bin/bash
# save it as nightly.slurm there; then scrontab -e: {_minute_first()} sbatch nightly.slurm
#SBATCH --job-name=fttune-nightly
#SBATCH --dependency=singleton
#SBATCH --gpus=1
#SBATCH --time={int(minutes) + 60}
#SBATCH --signal=B:TERM@600
#SBATCH --chdir={root}
#SBATCH --output=nightly-%j.log
{shlex.join(words)} &
trap 'kill -TERM $!' TERM
wait $!
wait $!
"""


def _kubernetes(words: Sequence[str], root: Path) -> str:
    listed = "\n".join(f"                - {_yaml(word)}" for word in words)
    return f"""# kubectl apply -f -; the image holds fttune, the claim {root}
apiVersion: batch/v1
kind: CronJob
metadata:
  name: fttune-nightly
spec:
  schedule: "{_minute_first()}"
  concurrencyPolicy: Forbid
  jobTemplate:
    spec:
      backoffLimit: 1
      template:
        spec:
          restartPolicy: Never
          terminationGracePeriodSeconds: 900
          containers:
            - name: fttune
              image: fttune
              workingDir: {_yaml(str(root))}
              command:
{listed}
              resources:
                limits:
                  nvidia.com/gpu: 1
              volumeMounts:
                - name: work
                  mountPath: {_yaml(str(root))}
          volumes:
            - name: work
              persistentVolumeClaim:
                claimName: fttune
"""


def _minute_first() -> str:
    hour, minute = AT.split(":")
    return f"{int(minute)} {int(hour)} * * *"


def _yaml(text: str) -> str:
    """Return a text as YAML, on one line and always as text."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


UNITS: Mapping[str, Callable[[Sequence[str], Path], str]] = {
    "cron": _cron,
    "systemd": _systemd,
    "github": _github,
    "slurm": _slurm,
    "kubernetes": _kubernetes,
}
