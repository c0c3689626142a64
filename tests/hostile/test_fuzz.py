"""Whatever stands in a file, reading it ends in a value or in a ConfigError, and what was read can be written again."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fttune.config import Experiment, Study, load, load_experiment, load_study
from fttune.config.dump import as_yaml, experiment_yaml
from fttune.config.strict_yaml import parse_yaml, read_yaml
from fttune.errors import ConfigError

ROOT = Path(__file__).parents[2]
FILES = sorted([*(ROOT / "experiments").rglob("*.yaml"), *(ROOT / "studies").rglob("*.yaml")])
TREES = [(file, yaml.safe_load(file.read_text())) for file in FILES]
FOLDER = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])

TOKENS = [
    *"{}[],:-?!&*|>%@`'\"# \n\t\r\0\x1b\x85\u2028\ufeff",
    ": ",
    "- ",
    "\n  ",
    "<<: ",
    "--- ",
    "&a ",
    "*a",
    "!!str ",
]
WORDS = ["a", "seed", "1e5", "0x1F", ".nan", "-.inf", "true", "no", "~", "1:30", "9" * 31, "\\ud800", "\U0001f600"]
YAMLISH = st.lists(st.sampled_from(TOKENS + WORDS) | st.text(max_size=3), max_size=30).map("".join)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter(lambda text: "\0" not in text)
KEYS = TEXT.filter(lambda text: text.isprintable())
NUMBERS = st.integers(-(10**28), 10**28) | st.floats(allow_nan=False)
PLAIN = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT | st.sampled_from(WORDS[:-2]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@FOLDER
@given(st.binary(max_size=60) | YAMLISH.map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_a_value_or_a_config_error_that_names_the_file(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes(content)
    try:
        json.dumps(read_yaml(file))
    except ConfigError as error:
        assert error.file == str(file)
        assert all(problem.message for problem in error.problems)


@settings(max_examples=200, deadline=None)
@given(YAMLISH)
def test_any_text_is_a_value_or_a_config_error_that_can_be_shown(text: str) -> None:
    try:
        parse_yaml(text, "x.yaml")
    except ConfigError as error:
        assert str(error).startswith("x.yaml: ")
        assert not re.search("[\\x00-\\x09\\x0b-\\x1f\\x7f-\\x9f\u2028\u2029]", str(error))


@settings(max_examples=150, deadline=None)
@given(PLAIN)
@example({"1e5": ["1e5", "0o7", "", "~", "on", "1:30", "a: b", "# x", " x", "x\n", "\x85", "\x7f"]})
def test_what_is_written_is_read_as_the_same(value: Any) -> None:
    assert repr(parse_yaml(as_yaml(value), "x.yaml")) == repr(value), as_yaml(value)


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all values in a nested mapping, itself left out."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [place for key, value in items for place in ((*path, key), *places(value, (*path, key)))]


@st.composite
def mutated(draw: st.DrawFn) -> tuple[Path, Any]:
    """Return a file of the repository and its content with one to three changes."""
    file, tree = draw(st.sampled_from(TREES))
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        *sections, last = draw(st.sampled_from(places(tree)))
        place = tree
        for section in sections:
            place = place[section]
        change = draw(st.sampled_from(("delete", "replace", "nudge", "add", "move")))
        if change == "delete" and len(tree) > 1:
            del place[last]
        elif change == "nudge" and isinstance(place[last], int | float):
            place[last] *= draw(st.sampled_from((0, -1, 0.5, 2, 10**6, 1e-9)))
        elif change == "add" and isinstance(place, dict):
            place[draw(KEYS)] = draw(PLAIN)
        elif change == "move":
            tree[str(last)] = place[last]
        else:
            place[last] = draw(PLAIN)
    return file, tree


@FOLDER
@given(mutated())
def test_a_changed_file_is_loaded_and_written_again_or_refused_by_file_and_field(
    tmp_path: Path, change: tuple[Path, Any]
) -> None:
    original, tree = change
    if isinstance(tree.get("experiment"), str):
        tree["experiment"] = str((original.parent / tree["experiment"]).resolve())
    file = tmp_path / "changed.yaml"
    file.write_text(as_yaml(tree), encoding="utf-8")
    try:
        loaded = load(file)
    except ConfigError as error:
        assert all(line.startswith((f"{error.file}: ", "  ")) for line in str(error).splitlines())
        assert all(problem.field or str(problem.message) for problem in error.problems)
        return
    again = tmp_path / "again" / "changed.yaml"
    again.parent.mkdir(exist_ok=True)
    if isinstance(loaded, Experiment):
        again.write_text(experiment_yaml(loaded), encoding="utf-8")
        assert load_experiment(again) == loaded
    else:
        assert isinstance(loaded, Study)
        again.write_text(written(loaded, tree["experiment"]), encoding="utf-8")
        assert load_study(again) == loaded


def written(study: Study, experiment: str) -> str:
    """Return a study's file; its experiment is a reference there, and fields that its identity leaves out are kept."""
    fields = study.model_dump(mode="json", exclude_unset=True, exclude={"experiment"})
    outside = {"confirm": study.confirm.model_dump(), "storage": study.storage, "tracking": study.tracking.model_dump()}
    return as_yaml({"experiment": experiment, **fields, **outside})


@pytest.mark.parametrize("file", FILES, ids=[file.name for file in FILES])
def test_every_file_of_the_repository_is_the_same_after_it_was_written(file: Path, tmp_path: Path) -> None:
    loaded = load(file)
    again = tmp_path / file.name
    if isinstance(loaded, Study):
        reference = yaml.safe_load(file.read_text())["experiment"]
        again.write_text(written(loaded, str((file.parent / reference).resolve())), encoding="utf-8")
    else:
        again.write_text(experiment_yaml(loaded), encoding="utf-8")
    assert load(again) == loaded
