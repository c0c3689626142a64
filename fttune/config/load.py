"""Files to experiments and studies: read strictly, override, validate, and say every problem of a file at once."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from fttune.config.conditions import drop_alternatives
from fttune.config.distributions import Distribution
from fttune.config.experiment import Experiment
from fttune.config.known import did_you_mean, shown
from fttune.config.problems import problems_of
from fttune.config.rules import experiment_problems
from fttune.config.sections import NAME, NAME_RULE
from fttune.config.strict_yaml import parse_yaml, read_yaml
from fttune.config.study import Sampler, Study
from fttune.config.study_rules import study_problems
from fttune.errors import ConfigError, Problem

Model = TypeVar("Model", bound=BaseModel)
Override = tuple[str, Any]
Rules = Callable[[Mapping[str, Any]], Iterator[Problem]]


def load_experiment(path: Path | str, overrides: Sequence[str] = ()) -> Experiment:
    """Return the experiment of a YAML file; `overrides` are `dotted.field=value` as on the command line.

    Raises:
        ConfigError: with every problem of the file.
    """
    return _experiment(Path(path), parse_overrides(overrides))


def load_study(path: Path | str, overrides: Sequence[str] = ()) -> Study:
    """Return the study of a YAML file with its experiment loaded.

    An override whose first name is a field of a study changes the study, any other one its experiment.

    Raises:
        ConfigError: with every problem of the file, or of the experiment's file.
    """
    path, pairs = Path(path), parse_overrides(overrides)
    raw = _mapping(path, [pair for pair in pairs if _is_of_study(pair)])
    reference = raw.pop("experiment", None)
    problems = []
    if not isinstance(reference, str):
        rule = "required field is missing" if reference is None else f"must be a path, got {shown(reference)}"
        problems.append(Problem("experiment", rule))
    elif _is_file(file := Path(os.path.normpath(path.parent / reference))):
        raw["experiment"] = _experiment(file, [pair for pair in pairs if not _is_of_study(pair)])
    else:
        problems.append(Problem("experiment", f"there is no file {str(file)!r}"))
    return _build(Study, path, raw, problems, _rules_of_study)


def load(path: Path | str, overrides: Sequence[str] = ()) -> Experiment | Study:
    """Return what a file holds: a study when it has a `space`, `experiment` or `budget`. Raises ConfigError."""
    raw = _mapping(Path(path))
    read = load_study if {"space", "experiment", "budget"} & raw.keys() else load_experiment
    return read(path, overrides)


def find_experiment(name: str, root: Path) -> Path:
    """Return `<root>/experiments/**/<name>.yaml`. Raises ConfigError when there is none, or two."""
    files = sorted((root / "experiments").rglob("*.yaml"))
    found = [file for file in files if file.stem == name]
    if len(found) == 1:
        return found[0]
    problem = f"stands {len(found)} times: {', '.join(map(str, found))}" if found else "there is no such file"
    near = "" if found else did_you_mean(name, [file.stem for file in files])
    raise ConfigError(f"experiments/{name}.yaml", [Problem("", problem + near)])


def parse_overrides(overrides: Sequence[str]) -> list[Override]:
    """Return `dotted.field=value` as pairs; the value is YAML. Raises ConfigError."""
    pairs = []
    for override in overrides:
        dotted, equals, text = override.partition("=")
        if not equals or not all(dotted.split(".")) or not dotted.isprintable():
            raise ConfigError("--set", [Problem("", f"must be dotted.field=value, got {shown(override)}")])
        pairs.append((dotted, parse_yaml(text, f"--set {dotted}")))
    return pairs


def _experiment(path: Path, overrides: Iterable[Override]) -> Experiment:
    return _build(Experiment, path, _mapping(path, overrides), [], _rules_of_experiment)


def _is_of_study(override: Override) -> bool:
    return override[0].partition(".")[0] in Study.model_fields


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # such as a name that is too long
        return False


def _mapping(path: Path, overrides: Iterable[Override] = ()) -> dict[str, Any]:
    raw = read_yaml(path)
    if not isinstance(raw, dict):
        # Not the text itself: a reference may lead to a file that is no experiment, and should not be shown.
        got = "text" if isinstance(raw, str) else shown(raw)
        rule = "is empty" if raw is None else f"must be a mapping of fields, got {got}"
        raise ConfigError(str(path), [Problem("", rule)])
    overrides = list(overrides)
    drop_alternatives(raw, [dotted for dotted, _ in overrides])
    for dotted, value in overrides:
        _set(raw, dotted, value)
    return raw


def _set(raw: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = _keys(raw, dotted, value)
    for key in parents:
        if not isinstance(raw.get(key), dict):
            raw[key] = {}
        raw = raw[key]
    raw[last] = value


def _keys(raw: Mapping[str, Any], dotted: str, value: Any) -> list[str]:
    """Split a dotted field. The keys of a space hold dots themselves: `space.optimizer.lr.low`."""
    section, _, rest = dotted.partition(".")
    if section != "space" or "." not in rest:
        return dotted.split(".")
    if ".when." in rest:
        name, _, condition = rest.partition(".when.")
        return [section, name, "when", condition]
    space = raw.get("space")
    if isinstance(value, dict) or (isinstance(space, dict) and rest in space):
        return [section, rest]
    return [section, *rest.rsplit(".", 1)]


def _build(model: type[Model], path: Path, raw: Mapping[str, Any], problems: list[Problem], rules: Rules) -> Model:
    """Return the model of a file's fields, or raise `problems` and all others of the file."""
    fields = {**raw, "name": path.stem}
    if not re.fullmatch(NAME, path.stem):
        problems.append(Problem("", f"the file's name {NAME_RULE}, got {shown(path.stem)}"))
        del fields["name"]
    elif twins := _twins(path):
        problems.append(Problem("", f"its name must be unique, but there is {', '.join(map(repr, twins))}"))
    if "name" in raw:
        problems.append(Problem("name", "unknown key; the name is the stem of the file"))
    try:
        built = model.model_validate(fields)
    except ValidationError as error:
        # Rules between sections ran only if every section was valid; run them on what is.
        problems = [*problems, *problems_of(error, model), *rules(fields)]
    if problems:
        first: dict[str, Problem] = {}
        for problem in problems:
            first.setdefault(problem.field, problem)
        raise ConfigError(str(path), first.values())
    return built


def _twins(path: Path) -> list[str]:
    """Return the other files of this name below the same studies/ or experiments/: their results would mix."""
    path = path.resolve()
    for folder in path.parents:
        if folder.name in ("studies", "experiments"):
            return sorted(str(other) for other in folder.rglob("*.yaml") if other.stem == path.stem and other != path)
    return []


def _rules_of_experiment(fields: Mapping[str, Any]) -> Iterator[Problem]:
    return experiment_problems(fields)


def _rules_of_study(fields: Mapping[str, Any]) -> Iterator[Problem]:
    space, sampler, baselines = fields.get("space"), fields.get("sampler", {}), fields.get("baselines")
    if not isinstance(space, dict):
        return iter(())
    valid_sampler = _valid(Sampler, {"type": sampler.get("type", "tpe")}) if isinstance(sampler, dict) else None
    return study_problems(
        space={name: _valid(Distribution, value) for name, value in space.items()},
        sampler=valid_sampler and valid_sampler.type,
        baselines=[b if isinstance(b, dict) else {} for b in baselines] if isinstance(baselines, list) else [],
        experiment=fields.get("experiment"),
        given={name for name, value in fields.items() if value is not None},
    )


def _valid(annotation: Any, value: Any) -> Any:
    """Return the validated value, or None."""
    try:
        return TypeAdapter(annotation).validate_python(value)
    except ValidationError:
        return None
