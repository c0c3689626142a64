"""Where things lie: the working directory, and the generated folder that may be deleted at any time."""

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fttune.config.known import shown
from fttune.errors import BadInput, StoreError
from fttune.files import obstacle
from fttune.mirror import Mirror


@dataclass(frozen=True)
class Workspace:
    """`root` holds experiments/, studies/ and data; `mlruns` everything generated. Both are absolute.

    `plugins` are the Python files that the user named to define backbones of their own; nothing else is ever run.
    `cache_bytes` bounds what `arrays` holds; None allows half of what is free on its disk or already there. `shared` is
    the URL through which machines without a common `mlruns` exchange what is generated.
    """

    root: Path
    mlruns: Path
    plugins: tuple[Path, ...] = ()
    cache_bytes: int | None = None
    shared: str | None = None

    @classmethod
    def at(
        cls,
        root: Path | None = None,
        mlruns: Path | None = None,
        *,
        plugins: Iterable[Path] = (),
        cache_gb: float | None = None,
    ) -> "Workspace":
        """Return the workspace of a directory (default: the current one).

        `mlruns` defaults to `FTTUNE_MLRUNS`, else `<root>/mlruns`; relative plugins lie in the current directory.
        `cache_gb` (10^9 bytes) defaults to `FTTUNE_CACHE_GB`. Raises BadInput when that is no number from 0, or a
        folder leads nowhere.
        """
        root = (root or Path.cwd()).resolve()
        chosen = root / (mlruns or Path(os.environ.get("FTTUNE_MLRUNS") or "mlruns"))
        files = tuple(file.resolve() for file in plugins)
        try:
            chosen = chosen.resolve()
            chosen.exists()
        except (OSError, RuntimeError) as error:  # RuntimeError: a link that leads to itself
            cause = getattr(error, "strerror", None) or "a link that leads to itself"
            raise StoreError(f"{shown(str(chosen))}: cannot be used ({cause}); use --mlruns") from None
        return cls(root, chosen, files, _cache_bytes(cache_gb))

    def require_writable(self) -> None:
        """Refuse a generated folder that cannot be made or written, without making it. Raises StoreError."""
        if nearest := obstacle(self.mlruns):
            raise StoreError(f"{self.mlruns}: cannot be written, since {nearest} is no folder that can; use --mlruns")

    def doubt(self) -> str | None:
        """Return why others can decide what is read from the generated folder, and the remedy; None when none can.

        fttune makes the folder for its owner alone. One that was there is as its owner wants it, so it is used.
        """
        try:
            found = self.mlruns.stat()
        except OSError:  # not there yet
            return None
        if found.st_uid != os.geteuid() != 0:
            return "belongs to another user, who decides what fttune reads from it; use --mlruns with a folder of yours"
        if found.st_mode & 0o002:
            return f"every user may write to it, and so decide what fttune reads from it; chmod o-w {self.mlruns}"
        return None

    def mirror(self, name: str) -> Mirror | None:
        """Return what lies under a name at `shared`, None without one. Raises BadInput as `Mirror`."""
        return Mirror(f"{self.shared.rstrip('/')}/{name}") if self.shared else None

    @property
    def cache(self) -> Path:
        """Arrays that can be made again, downloaded data sets, checkpoints on their way to MLflow."""
        return self.mlruns / "cache"

    @property
    def arrays(self) -> Path:
        """Decoded images, and what else is computed once: all that `cache_bytes` bounds."""
        return self.cache / "arrays"

    @property
    def runs(self) -> Path:
        """A folder for each run: its files on their way to MLflow."""
        return self.cache / "runs"

    @property
    def states(self) -> Path:
        """A folder for each run that was cut off: what it goes on from."""
        return self.cache / "states"

    @property
    def workers(self) -> Path:
        """A folder for each worker that shares none of the above, for its own states and files of runs."""
        return self.cache / "workers"

    @property
    def spools(self) -> Path:
        """Events on their way to MLflow."""
        return self.mlruns / "spool"

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


def _cache_bytes(chosen_gb: float | None) -> int | None:
    written = os.environ.get("FTTUNE_CACHE_GB") if chosen_gb is None else str(chosen_gb)
    if not written:
        return None
    try:
        gigabytes = float(written)
    except ValueError:
        gigabytes = math.nan
    if not 0 <= gigabytes < math.inf:
        raise BadInput(f"the size of the cache is {written!r} GB, but must be a number from 0; see FTTUNE_CACHE_GB")
    return int(gigabytes * 1e9)
