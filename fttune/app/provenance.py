"""What a run should remember of the world it ran in, as MLflow tags."""

import platform
import subprocess
from pathlib import Path

from fttune.data.listing import some
from fttune.training import Inputs, library_versions

NAMED_CLASSES = 50


def git_commit(root: Path) -> str | None:
    """Return the commit checked out at `root`, with `+changes` when tracked files differ; None outside git."""
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None:
        return None
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}+changes" if changed else commit


def provenance(root: Path, inputs: Inputs) -> dict[str, str]:
    """Return tags: data fingerprint, sizes and classes, weights, git commit, machine, library versions."""
    data = inputs.data
    tags = {
        "fttune.data.fingerprint": data.fingerprint,
        "fttune.data.train": str(len(data.train)),
        "fttune.data.val": str(len(data.val) if data.val else 0),
        "fttune.data.test": str(data.n_test),
        "fttune.data.classes": str(len(data.classes)),
        "fttune.data.class_names": some(data.classes, NAMED_CLASSES),
        "fttune.weights": inputs.weights.identity,
        "fttune.host": platform.node(),
    }
    if commit := git_commit(root):
        tags["mlflow.source.git.commit"] = commit
    return tags | {f"fttune.version.{name}": version for name, version in library_versions().items()}


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
