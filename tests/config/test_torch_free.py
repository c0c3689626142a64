import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "torchvision", "optuna", "mlflow", "pandas", "numpy", "sklearn", "PIL"}


def test_configuration_imports_none_of_the_heavy_libraries_even_when_it_loads_files():
    program = """
import sys
import fttune.config, fttune.config.fingerprint, fttune.config.workspace
study = fttune.config.load("studies/digits.yaml")
study.total_trials, study.experiment.params()
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not HEAVY & set(done.stdout.split())
    assert {"pydantic", "yaml"} <= set(done.stdout.split())
