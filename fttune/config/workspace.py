"""Where things lie: the working directory, and the generated folder that may be deleted at any time."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fttune.errors import StoreError
from fttune.files import obstacle


@dataclass(frozen=True)
class Workspace:
    """`root` holds experiments/, studies/ and data; `mlruns` everything generated. Both are absolute.

    `plugins` are the Python files that the user named to define backbones of their own; nothing else is ever run.
    """

    root: Path
    mlruns: Path
    plugins: tuple[Path, ...] = ()

    @classmethod
    def at(cls, root: Path | None = None, mlruns: Path | None = None, *, plugins: Iterable[Path] = ()) -> "Workspace":
        """Return the workspace of a directory (default: the current one).

        `mlruns` defaults to `FTTUNE_MLRUNS`, else `<root>/mlruns`; relative plugins lie in the current directory.
        """
        root = (root or Path.cwd()).resolve()
        chosen = mlruns or Path(os.environ.get("FTTUNE_MLRUNS") or "mlruns")
        return cls(root, (root / chosen).resolve(), tuple(file.resolve() for file in plugins))

    def require_writable(self) -> None:
        """Refuse a generated folder that cannot be made or written, without making it. Raises StoreError."""
        if nearest := obstacle(self.mlruns):
            raise StoreError(f"{self.mlruns}: cannot be written, since {nearest} is no folder that can; use --mlruns")

    @property
    def cache(self) -> Path:
        """Decoded images, downloaded data sets, checkpoints on their way to MLflow."""
        return self.mlruns / "cache"

    @property
    def artifacts(self) -> Path:
        """MLflow's artifacts."""
        return self.mlruns / "artifacts"

    @property
    def locks(self) -> Path:
        """Lock files; a lock ends with its owner."""
        return self.mlruns / "locks"

    @property
    def mlflow_uri(self) -> str:
        """MLflow's own store, unless the study or `MLFLOW_TRACKING_URI` names another."""
        return f"sqlite:///{self.mlruns / 'mlflow.db'}"

    @property
    def optuna_uri(self) -> str:
        """Optuna's own store, unless the study names another."""
        return f"sqlite:///{self.mlruns / 'optuna.db'}"
