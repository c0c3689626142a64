"""The benchmark for GPUs runs without one at a tiny size, and without what a GPU machine may lack."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, gpu_lists
from benchmarks.resident_loop import Loop, Resident, training_flops
from benchmarks.trial_lists import recipes_of
from fttune.models.cifar_resnet import cifar_resnet8

WITHOUT = """
import sys
sys.modules.update(dict.fromkeys(["optuna", "mlflow", "sklearn", "pandas", "scipy"]))  # importing them fails
import benchmarks.gpu
benchmarks.gpu.main([])
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="would measure")
def test_without_a_gpu_it_says_so_in_one_line_and_needs_neither_optuna_nor_mlflow() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.startswith("no GPU here"), done.stderr
    assert done.stdout.count("\n") == 1
    assert done.returncode == 0


@pytest.mark.slow
def test_all_sections_run_and_a_later_call_does_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    watched = ("last stage trained", "standard augmentation")
    monkeypatch.setattr(gpu, "TINY", replace(gpu.TINY, images=20, batch_sizes=(8,), trials=3, heads=2))
    monkeypatch.setattr(gpu, "WATCHED", {name: gpu.WATCHED[name] for name in watched})
    file = tmp_path / "results.jsonl"
    asked = ["--tiny", "--folder", str(tmp_path), "--results", str(file)]
    gpu.main(asked)
    first = capsys.readouterr().out
    records = [json.loads(line) for line in file.read_text().splitlines()]
    gpu.main(asked)
    second = capsys.readouterr().out
    assert len(file.read_text().splitlines()) == len(records) > 10
    assert second == "".join(line for line in first.splitlines(True) if "done in" not in line)
    found = {record["piece"]: record for record in records}
    plain = {depth: found[f"list C plain {depth}"] for depth in range(3)}
    gaps = gpu_lists.differences(recipes_of(5, 3), plain, found["list C fttune"])
    assert max(gaps.values()) <= 1e-4, gaps


def test_the_bare_loop_trains_on_full_batches_alone() -> None:
    images = torch.randint(0, 255, (11, 8, 8, 3), dtype=torch.uint8)
    loop = Loop(cifar_resnet8, Resident(images, torch.arange(11) % 3), batch_size=4, way="eager")
    count, _ = loop.epoch()
    assert count == 8


def test_flops_of_a_step_are_three_times_those_of_a_forward_pass_but_for_the_images_own_gradient() -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 3, padding=1, bias=False)
            self.head = torch.nn.Linear(4 * 8 * 8, 5, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.conv(x).flatten(1))

    conv, head = 2 * 8 * 8 * 4 * 3 * 9, 2 * 256 * 5
    assert training_flops(Net, 8) == 2 * conv + 3 * head


def test_a_list_of_which_some_trials_were_timed_is_scaled_by_the_mean_of_each_depth() -> None:
    recipes = recipes_of(1, 10)  # five of each depth
    plain = {0: {"seconds": [1.0, 2.0, 3.0]}, 1: {"seconds": [4.0, 6.0, 8.0]}}
    assert gpu_lists.scaled_seconds(recipes, plain) == 5 * 2.0 + 5 * 6.0
