"""An object whose unpickling leaves a trace."""

import os
from pathlib import Path


class RunsCode:
    """Unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)
