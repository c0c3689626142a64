import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from fttune.cli import app
from fttune.config import Experiment, Study, load
from fttune.config.experiment import flatten
from fttune.config.known import torchvision_datasets

ROOT = Path(__file__).parent.parent
REST = """data: {source: folder, path: images}
backbone: {name: resnet50}
optimizer: {lr: 0.01}
training: {epochs: 10}
"""
PAGES = ("README.md", "docs/guide.md", "docs/freezing.md", "docs/architecture.md")


def yaml_blocks() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
        found += [(f"{page}[{index}]", block) for index, block in enumerate(blocks)]
    return found


def test_the_docs_hold_eight_examples() -> None:
    assert len(yaml_blocks()) == 8


@pytest.mark.parametrize(("name", "block"), yaml_blocks())
def test_every_yaml_example_of_the_docs_is_valid(name: str, block: str, tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir()
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    file = tmp_path / "studies" / "example.yaml"
    if block.startswith("freeze:"):  # a section alone: the rest is that of an experiment that has nothing of its own
        file.write_text(f"{REST}{block}")
        assert isinstance(load(file), Experiment)
        return
    file.write_text(block)
    assert isinstance(load(file), Experiment if "task:" in block else Study), name


def test_the_guides_own_objective_runs_in_plain_optuna(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "guide.md").read_text(), re.DOTALL)
    (program,) = [block for block in blocks if "create_study" in block]
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(program, names)
    assert len(names["study"].trials) == 4
    assert names["study"].best_value > 0.1, "better than a guess"


def commands() -> list[list[str]]:
    """The words of every fttune command in the examples of README and guide."""
    text = "".join((ROOT / page).read_text() for page in ("README.md", "docs/guide.md", "docs/freezing.md"))
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = [part for block in blocks for line in block.splitlines() for part in line.split("&&")]
    words = [shlex.split(line, comments=True) for line in lines]
    return [found[1:] for found in words if found[:1] == ["fttune"]]


def test_every_command_of_the_examples_can_be_given_like_that() -> None:
    import typer

    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    given = commands()
    assert len(given) >= 12
    for name, *arguments in given:
        group.commands[name].make_context(name, arguments)  # an unknown option, or too few arguments, raise


def test_every_field_stands_in_the_guide() -> None:
    guide = "".join((ROOT / "docs" / page).read_text() for page in ("guide.md", "freezing.md"))
    experiment, study = load(ROOT / "experiments" / "digits.yaml"), load(ROOT / "studies" / "digits.yaml")
    assert isinstance(experiment, Experiment)
    fields = {path.rpartition(".")[2] for path in flatten(experiment.model_dump())}
    fields |= set(Study.model_fields) - {"name"}
    fields |= {path.rpartition(".")[2] for path in flatten(study.model_dump(include={"budget", "sampler", "pruner"}))}
    assert sorted(field for field in fields if not re.search(rf"\b{field}\b", guide)) == []


def test_every_file_of_the_map_exists_and_every_room_is_on_it() -> None:
    text = (ROOT / "README.md").read_text().partition("## File map")[2]
    listed = re.findall(r"^  (\w[\w.]*/?) ", text, re.MULTILINE)
    rooms = {p.name + "/" if p.is_dir() else p.name for p in (ROOT / "fttune").iterdir()}
    rooms -= {"__pycache__/", "__init__.py", "py.typed"}
    assert sorted(listed) == sorted(rooms)


def test_data_sets_are_torchvisions_own_names() -> None:
    import torchvision

    assert [name for name in torchvision_datasets() if not hasattr(torchvision.datasets, name)] == []


@pytest.mark.parametrize("page", ["docs/reliability.md", "SECURITY.md"])
def test_every_promise_names_a_test_that_is_there(page: str) -> None:
    named = re.findall(r"(tests/[\w/]+\.py)?(?:::(\w+))?", (ROOT / page).read_text())
    file, known = Path(), 0
    for path, test in named:
        if path:
            file = ROOT / path
            assert file.is_file(), path
        if test:
            assert f"def {test}(" in file.read_text(), f"{file}::{test}"
            known += 1
    assert known >= 10
