import subprocess
import sys

PROGRAM = """
import sys

ABSENT = {"optuna", "mlflow", "pandas", "sklearn", "scipy", "typer", "rich", "matplotlib"}

class Without:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in ABSENT else self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(Without, sys.meta_path)
import fttune
import fttune.training
import fttune.training.lr_range
from fttune.training import fine_tune, prepare
from fttune.models import load_model
from fttune.training.checkpoints import library_versions
assert library_versions()["fttune"] == fttune.__version__
assert not ABSENT & sys.modules.keys()
print("imported")
"""


def test_the_training_core_imports_where_only_torch_pydantic_and_yaml_are_installed():
    # filelock is there too: torch itself needs it.
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "imported\n", done.stderr
