import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fttune.config import Experiment, Study, load, load_experiment, load_study
from fttune.config.load import find_experiment, parse_overrides
from fttune.errors import BadInput, ConfigError

from .examples import ABSENT, experiment, experiment_fields, lines, study_fields, write

ROOT = Path(__file__).parents[2]


def refused(function, *arguments) -> list[str]:
    """The problems that a call reports, each as `field: message`."""
    with pytest.raises(ConfigError) as caught:
        function(*arguments)
    return lines(caught.value)


@pytest.fixture
def recipe(tmp_path):
    """Write the smallest experiment with some fields changed."""
    return lambda changes=None, name="recipe.yaml": write(tmp_path, experiment_fields(changes), name)


@pytest.fixture
def search(tmp_path, recipe):
    """Write the smallest study with some fields changed, beside its experiment."""
    recipe()
    return lambda changes=None, name="search.yaml": write(tmp_path, study_fields(changes), name)


def test_every_committed_experiment_and_study_loads():
    experiments = sorted((ROOT / "experiments").rglob("*.yaml"))
    studies = sorted((ROOT / "studies").rglob("*.yaml"))
    assert len(experiments) == 11
    assert len(studies) == 8
    assert all(isinstance(load(file), Experiment) for file in experiments)
    assert all(isinstance(load(file), Study) for file in studies)
    for files in (experiments, studies):
        assert len({file.stem for file in files}) == len(files)
    assert not list(ROOT.glob("experiments/**/*.yml")) + list(ROOT.glob("studies/**/*.yml"))


def test_every_experiment_that_a_committed_one_starts_from_exists():
    for file in (ROOT / "experiments").rglob("*.yaml"):
        kind, _, name = load_experiment(file).backbone.weights.partition(":")
        assert kind != "experiment" or find_experiment(name, ROOT).is_file()


def test_an_experiment_is_named_for_its_file(recipe):
    loaded = load_experiment(recipe(name="pets.v2.yaml"))
    assert loaded.name == "pets.v2"
    assert loaded == experiment().replace({"name": "pets.v2"})


def test_paths_may_be_text(recipe):
    assert load_experiment(str(recipe())) == load_experiment(recipe())


def test_a_study_finds_its_experiment_relative_to_its_own_file(tmp_path, monkeypatch):
    for folder in ("experiments", "studies", "elsewhere"):
        (tmp_path / folder).mkdir()
    write(tmp_path / "experiments", experiment_fields({"seed": 5}), "pets.yaml")
    file = write(tmp_path / "studies", study_fields({"experiment": "../experiments/pets.yaml"}), "search.yaml")
    monkeypatch.chdir(tmp_path / "elsewhere")
    loaded = load_study(file)
    assert (loaded.name, loaded.experiment.name, loaded.experiment.seed) == ("search", "pets", 5)
    assert load_study("../studies/search.yaml") == loaded
    absolute = study_fields({"experiment": str(tmp_path / "experiments" / "pets.yaml")})
    assert load_study(write(tmp_path, absolute, "search.yaml")) == loaded


def test_load_tells_studies_from_experiments(recipe, search):
    assert type(load(recipe())) is Experiment
    assert type(load(search())) is Study
    assert type(load(str(search()))) is Study


@pytest.mark.parametrize("kept", ["space", "experiment", "budget"])
def test_any_field_that_only_studies_have_makes_a_file_a_study(tmp_path, kept):
    file = write(tmp_path, {kept: study_fields()[kept]}, "half.yaml")
    missing = {"space", "experiment", "budget"} - {kept}
    found = refused(load, file)
    assert {f"{name}: required field is missing" for name in missing if name != "experiment"} <= set(found)
    assert not any(line.startswith(("data", "training")) for line in found)


def test_any_other_file_is_an_experiment(tmp_path):
    assert refused(load, write(tmp_path, {"sampler": {}})) == [
        "data: required field is missing",
        "backbone: required field is missing",
        "optimizer: required field is missing",
        "training: required field is missing",
        "sampler: unknown key",
    ]


@pytest.mark.parametrize("function", [load, load_experiment, load_study])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("# nothing\n", "is empty"),
        ("null", "is empty"),
        ("5", "must be a mapping of fields, got 5"),
        ("- a: 1", "must be a mapping of fields, got [{'a': 1}]"),
        ("a: 1\na: 2", "line 2, column 1: the key 'a' stands twice"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused_as_a_whole(tmp_path, function, text, message):
    file = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        function(file)
    assert str(caught.value) == f"{file}: {message}"


MISTAKES = """
tsk: classification
data:
  source: foldr
  image_size: 0
  split: {val: 0.9, test: 0.2, sed: 1}
  classes: [cat, cat]
backbone: {name: resnt18, weights: 5}
freeze: {unfrozen_stages: -1}
optimizer: {name: sdg, lr: -1.0, momentum: 1e0}
training: {epochs: 1.5, warmup_epochs: .nan, monitor: val/acc, device: gpu}
seed: yes
name: pets
"""
METRICS = "val/loss, val/accuracy, val/balanced_accuracy, val/macro_f1, val/top5_accuracy"


def test_an_experiment_shows_all_its_mistakes_at_once(tmp_path):
    assert refused(load_experiment, write(tmp_path, MISTAKES)) == [
        "name: unknown key; the name is the stem of the file",
        "data.source: must be one of digits, folder, csv, torchvision:<DatasetName>, got 'foldr'; "
        "did you mean 'folder'?",
        "data.image_size: must be >= 1, got 0",
        "data.split.test: val + test must leave images to train on, got 1.1 of 1",
        "data.split.sed: unknown key; did you mean 'seed'?",
        "data.classes: names the class 'cat' twice",
        "backbone.name: unknown name 'resnt18'; nearest: resnet18, resnet152, resnet101",
        "backbone.weights: must be text, got 5",
        "freeze.unfrozen_stages: must be a whole number >= 0, a share of the stages in 0.0..1.0, or all, got -1",
        "optimizer.name: must be one of sgd, adamw, got 'sdg'; did you mean 'sgd'?",
        "optimizer.lr: must be > 0, got -1.0",
        "optimizer.momentum: must be < 1, got 1.0",
        "training.epochs: must be a whole number, got 1.5",
        "training.warmup_epochs: must be a finite number, got nan",
        f"training.monitor: must be one of {METRICS}, got 'val/acc'; did you mean 'val/accuracy'?",
        "training.device: must be auto, cpu, mps, cuda or cuda:<number>, got 'gpu'",
        "seed: must be a whole number, got 'yes'",
        "tsk: unknown key; did you mean 'task'?",
    ]


def test_rules_between_sections_are_shown_beside_broken_fields(recipe):
    broken = {"freeze.unfrozen_stages": 9, "freeze.norm_stats": "x", "data.split.group_by": "g", "data.image_size": 0}
    fields = [line.partition(":")[0] for line in refused(load_experiment, recipe(broken))]
    assert fields == ["data.image_size", "freeze.norm_stats", "freeze.unfrozen_stages", "data.split.group_by"]


STUDY_MISTAKES = """
experiment: recipe.yaml
metric: val/acuracy
direction: up
budget: {n_trials: 0, timeout: 3}
batch: true
sampler: {type: grid, sed: 1}
pruner: {warmup_epochs: 1}
space:
  optimizer.lr: {type: flot, low: 1, high: 2}
  optimizer.momentun: {type: float, low: 0, high: 0.5}
  freeze.unfrozen_stages: {type: int, low: 0, high: 9}
  training.epochs: {type: int, low: -1, high: 3, log: true}
  training.schedule: {type: categorical, choices: [cosine, step]}
  data.path: {type: categorical, choices: [a, null]}
  seed: 5
baselines:
  - {optimizer.lr: 1, foo: 2, freeze.unfrozen_stages: true, optimizer.momentun: 0.1}
  - 5
storge: x
nightly: {at: 3}
name: x
"""


def test_a_study_shows_all_its_mistakes_at_once(tmp_path, recipe):
    recipe()
    missing = "sampler grid needs a value for each field of the space"
    assert refused(load_study, write(tmp_path, STUDY_MISTAKES, "search.yaml")) == [
        "name: unknown key; the name is the stem of the file",
        f"metric: must be one of {METRICS}, got 'val/acuracy'; did you mean 'val/accuracy'?",
        "direction: must be one of maximize, minimize, got 'up'",
        "budget.n_trials: must be >= 1, got 0",
        "budget.timeout: unknown key; did you mean 'timeout_minutes'?",
        "sampler.sed: unknown key; did you mean 'seed'?",
        "pruner.type: required field is missing, one of median, successive_halving, hyperband, wilcoxon, none",
        "space.optimizer.lr.type: must be one of float, int, categorical, got 'flot'; did you mean 'float'?",
        "space.training.epochs.low: must be > 0 on a log scale, got -1",
        "space.data.path.choices[1]: must be text, a finite number, true or false, a list or a mapping, got None",
        "space.seed: must be a mapping of fields, got 5",
        "batch: must be a whole number, got True",
        "baselines[1]: must be a mapping of fields, got 5",
        "nightly.at: unknown key",
        "storge: unknown key; did you mean 'storage'?",
        "space.optimizer.momentun.points: sampler grid needs points (or step) for a float",
        "baselines[0].foo: is not in the space",
        "baselines[0].freeze.unfrozen_stages: must be a number of the space's type int, got True",
        f"baselines[0]: {missing}; training.schedule is missing",
        "space.optimizer.momentun: is not a field of the experiment; did you mean 'optimizer.momentum'?",
        "space.data.path: must be the same for all trials of a study, or they could not be compared",
        "space.freeze.unfrozen_stages.high: must be 0..4 (the stages are stem, layer1, layer2, layer3), got 9",
        "space.training.schedule.choices[1]: training.step_epochs: required for schedule step",
    ]


def test_a_broken_parameter_is_not_reported_again_by_the_baselines_that_name_it(search):
    broken = {"space": {"optimizer.lr": {"type": "flot"}}, "baselines": [{"optimizer.lr": 0.1}]}
    assert [line.partition(":")[0] for line in refused(load_study, search(broken))] == ["space.optimizer.lr.type"]
    broken = {"space": 5, "baselines": [{"optimizer.lr": 0.1}]}
    assert [line.partition(":")[0] for line in refused(load_study, search(broken))] == ["space"]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (ABSENT, "required field is missing"),
        (None, "required field is missing"),
        (5, "must be a path, got 5"),
        ({"data": 1}, "must be a path, got {'data': 1}"),
        ([], "must be a path, got []"),
    ],
)
def test_a_study_without_an_experiment_shows_its_other_mistakes_too(search, reference, message):
    assert refused(load_study, search({"experiment": reference, "batch": 0})) == [
        f"experiment: {message}",
        "batch: must be >= 1, got 0",
    ]


@pytest.mark.parametrize("reference", ["gone.yaml", "", ".", "\r.yaml", "x" * 300, "a/" * 3000])
def test_an_experiment_that_is_no_file_is_named_with_its_path(search, tmp_path, reference):
    (line,) = refused(load_study, search({"experiment": reference}))
    assert line == f"experiment: there is no file {str(tmp_path / reference)!r}"


def test_the_mistakes_of_an_experiment_carry_its_own_file_name(search, recipe):
    file = recipe({"seed": -1, "training.epochs": 0})
    with pytest.raises(ConfigError) as caught:
        load_study(search())
    assert str(caught.value) == f"{file}: training.epochs: must be >= 1, got 0\n{file}: seed: must be >= 0, got -1"


def test_the_name_of_a_broken_file_is_the_path_as_given(recipe, monkeypatch):
    file = recipe({"seed": -1})
    monkeypatch.chdir(file.parent)
    with pytest.raises(ConfigError) as caught:
        load_experiment("recipe.yaml")
    assert str(caught.value) == "recipe.yaml: seed: must be >= 0, got -1"
    assert isinstance(caught.value, BadInput)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("stem", [".hidden", "-x", "two words", "é", "x" * 101, "a\nb", "a:b", "(1)"])
def test_a_file_whose_name_could_not_name_a_run_is_refused_beside_its_other_mistakes(recipe, search, stem):
    rule = "the file's name must be 1 to 100 letters, digits, _ . or -, the first a letter or digit"
    for function, file in ((load_experiment, recipe), (load_study, search)):
        with pytest.raises(ConfigError) as caught:
            function(file({"seed" if function is load_experiment else "batch": -1}, f"{stem}.yaml"))
        assert [(p.field, p.message.partition(", got")[0]) for p in caught.value.problems] == [
            ("", rule),
            ("seed", "must be >= 0") if function is load_experiment else ("batch", "must be >= 1"),
        ]
        assert repr(stem)[:20] in caught.value.problems[0].message


@pytest.mark.parametrize("stem", ["a", "A-1_b.c", "9", "x" * 100])
def test_other_names_are_accepted(recipe, stem):
    assert load_experiment(recipe(name=f"{stem}.yaml")).name == stem


OVERRIDES = [
    ("optimizer.lr=1e-5", "optimizer.lr", 1e-5),
    ("optimizer.name=adamw", "optimizer.name", "adamw"),
    ("freeze.unfrozen_stages=all", "freeze.unfrozen_stages", "all"),
    ("seed=7", "seed", 7),
    ("data.classes=[5, 6]", "data.classes", ("5", "6")),
    ("data.split.val=0.5", "data.split.val", 0.5),
    ("data.augment={views: 4}", "data.augment.views", 4),
    ("data.augment.views=4", "data.augment.views", 4),
    ("data.split={val: 0.0, test: 0.1}", "data.split.test", 0.1),
    ("training.early_stop_epochs=", "training.early_stop_epochs", None),
    ("backbone.weights=a=b.pt", "backbone.weights", "a=b.pt"),
]


@pytest.mark.parametrize(("override", "field", "value"), OVERRIDES)
def test_an_override_sets_a_field_to_a_yaml_value(recipe, override, field, value):
    assert load_experiment(recipe(), [override]).params().get(field) == value


def test_the_last_of_two_overrides_wins_and_the_file_stays_as_it_is(recipe):
    file = recipe()
    before = file.read_bytes()
    assert load_experiment(file, ["seed=1", "seed=2"]).seed == 2
    assert file.read_bytes() == before


def test_overrides_are_validated_like_the_file(recipe):
    assert refused(load_experiment, recipe(), ["optimizer.lrr=1", "seed=x", "task.a=1", "new.field=2"]) == [
        "task: must be classification, got {'a': 1}",
        "optimizer.lrr: unknown key; did you mean 'lr'?",
        "seed: must be a whole number, got 'x'",
        "new: unknown key",
    ]


def test_an_override_can_mend_a_broken_file(recipe):
    file = recipe({"training.epochs": 0})
    assert load_experiment(file, ["training.epochs=1"]).training.epochs == 1
    file = recipe({"training": 5})
    assert load_experiment(file, ["training.epochs=1"]).training.epochs == 1


@pytest.mark.parametrize("override", ["", "seed", "=1", ".=1", "a..b=1", ".a=1", "a.=1", "a\nb=1"])
def test_an_override_is_a_dotted_field_and_a_value(recipe, override):
    with pytest.raises(ConfigError) as caught:
        load_experiment(recipe(), [override])
    assert str(caught.value) == f"--set: must be dotted.field=value, got {override!r}"


def test_an_override_that_is_no_yaml_is_named():
    with pytest.raises(ConfigError) as caught:
        parse_overrides(["seed=[1"])
    assert str(caught.value).startswith("--set seed: line 1, column 3: ")
    assert parse_overrides(["a.b={c: [1e3]}", "d=x"]) == [("a.b", {"c": [1000.0]}), ("d", "x")]


def test_overrides_of_a_study_go_to_it_or_to_its_experiment_by_their_first_name(search):
    overrides = ["budget.n_trials=9", "sampler.seed=3", "optimizer.lr=0.5", "seed=4", "batch=2", "training.epochs=7"]
    loaded = load_study(search(), overrides)
    assert (loaded.budget.n_trials, loaded.sampler.seed, loaded.batch) == (9, 3, 2)
    inner = loaded.experiment
    assert (inner.optimizer.lr, inner.seed, inner.training.epochs) == (0.5, 4, 7)


def test_an_override_can_choose_another_experiment(search, recipe):
    recipe({"seed": 9}, "other.yaml")
    loaded = load_study(search(), ["experiment=other.yaml", "optimizer.lr=0.5"])
    assert (loaded.experiment.name, loaded.experiment.seed, loaded.experiment.optimizer.lr) == ("other", 9, 0.5)


def test_an_override_reaches_into_a_space_whose_keys_hold_dots(search):
    space = load_study(search(), ["space.optimizer.lr.low=1e-5", "space.optimizer.lr.high=1"]).space
    assert (space["optimizer.lr"].low, space["optimizer.lr"].high, space["optimizer.lr"].log) == (1e-5, 1.0, True)


def test_an_override_replaces_or_adds_a_parameter_of_the_space(search):
    overrides = [
        "space.optimizer.lr={type: categorical, choices: [0.1, 0.2]}",
        "space.freeze.unfrozen_stages={type: int, low: 0, high: 2}",
        "space.seed={type: int, low: 0, high: 2}",
        "space.seed.high=3",
    ]
    space = load_study(search(), overrides).space
    assert space["optimizer.lr"].choices == (0.1, 0.2)
    assert space["freeze.unfrozen_stages"].high == 2
    assert space["seed"].high == 3
    assert list(load_study(search(), ["space={seed: {type: int, low: 0, high: 2}}"]).space) == ["seed"]


def test_a_mistaken_override_of_the_space_is_named_where_it_was_set(search):
    assert refused(load_study, search(), ["space.optimizer.lr=0.1"]) == [
        "space.optimizer.lr: must be a mapping of fields, got 0.1"
    ]
    assert refused(load_study, search(), ["space.seed=0.1"]) == ["space.seed: must be a mapping of fields, got 0.1"]
    assert refused(load_study, search({"space": 5}), ["space.optimizer.lr.low=1"]) == [
        "space.optimizer.lr.type: required field is missing, one of float, int, categorical"
    ]


def test_the_name_cannot_be_overridden(recipe, search):
    expected = ["name: unknown key; the name is the stem of the file"]
    assert refused(load_experiment, recipe(), ["name=x"]) == expected
    assert refused(load_study, search(), ["name=x"]) == expected


def test_an_experiment_is_found_by_its_stem_in_any_folder(tmp_path):
    (tmp_path / "experiments" / "deep").mkdir(parents=True)
    file = write(tmp_path / "experiments" / "deep", experiment_fields(), "pets.yaml")
    assert find_experiment("pets", tmp_path) == file


@pytest.mark.parametrize("name", ["", "*", "../pets", "/pets", "pets.yaml", "a\0b"])
def test_what_is_no_stem_finds_nothing(tmp_path, name):
    (tmp_path / "experiments").mkdir()
    write(tmp_path / "experiments", experiment_fields(), "pets.yaml")
    assert "there is no such file" in refused(find_experiment, name, tmp_path)[0]


def test_a_misspelt_experiment_is_answered_with_the_nearest(tmp_path):
    (tmp_path / "experiments").mkdir()
    write(tmp_path / "experiments", experiment_fields(), "pets.yaml")
    with pytest.raises(ConfigError) as caught:
        find_experiment("pest", tmp_path)
    assert str(caught.value) == "experiments/pest.yaml: there is no such file; did you mean 'pets'?"
    assert refused(find_experiment, "pets", tmp_path / "nowhere") == ["there is no such file"]


def test_two_experiments_of_one_stem_are_refused_with_both_files(tmp_path):
    (tmp_path / "experiments" / "deep").mkdir(parents=True)
    one = write(tmp_path / "experiments", experiment_fields(), "pets.yaml")
    two = write(tmp_path / "experiments" / "deep", experiment_fields(), "pets.yaml")
    assert refused(find_experiment, "pets", tmp_path) == [f"stands 2 times: {', '.join(sorted(map(str, [one, two])))}"]


keys = st.text(max_size=3) | st.sampled_from(
    ["type", "low", "str", "int", "float", "name", "data", "1", "a.b", "[key]"]
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**29), 10**29)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["float", "int", "categorical", "grid", "cmaes", "median", "none", "all", "adamw", "csv", "step"])
)
values = st.recursive(
    scalars,
    lambda v: st.lists(v, max_size=3) | st.dictionaries(keys.filter(str.isprintable), v, max_size=3),
    max_leaves=6,
).filter(lambda value: "\\u0000" not in repr(value) and "\\x00" not in repr(value))

EXPERIMENT_PLACES = sorted(
    {*experiment().params(), "data", "data.split", "backbone", "freeze", "optimizer", "training"}
)
STUDY_PLACES = [
    *("experiment", "metric", "direction", "batch", "budget", "budget.n_trials", "budget.timeout_minutes", "storage"),
    *("sampler", "sampler.type", "sampler.seed", "pruner", "pruner.type", "pruner.warmup_epochs", "tracking", "space"),
    *("baselines", "tracking.uri", "name", "unknown"),
]
SPACE_FIELDS = ["type", "low", "high", "log", "step", "points", "choices", "when", "unknown"]
SPACE_NAMES = sorted({*experiment().params(), "unknown"})


def problems_of(function, file) -> list[str]:
    """The fields that a file is refused for, with the message checked; any other exception fails the test."""
    try:
        function(file)
    except ConfigError as error:
        text = "\n".join(lines(error))
        for jargon in ("pydantic", "Input", "validation error", "Extra inputs", "tuple", "dictionary", "NoneType"):
            assert jargon not in text
        fields = [problem.field for problem in error.problems]
        assert len(set(fields)) == len(fields)
        return fields
    return []


@settings(deadline=None, max_examples=120)
@given(st.dictionaries(st.sampled_from(EXPERIMENT_PLACES), values, min_size=1, max_size=3))
@example({"backbone": {"name": "resnet18"}, "optimizer.momentum": {"float": 1}})
def test_any_values_in_an_experiment_are_accepted_or_refused_at_their_fields(tmp_path_factory, changes):
    file = write(tmp_path_factory.getbasetemp(), experiment_fields(changes))
    touched = {place.partition(".")[0] for place in changes}
    touched |= {"freeze"} if "backbone" in touched else set()
    assert {field.partition(".")[0] for field in problems_of(load, file)} <= touched


@settings(deadline=None, max_examples=120)
@given(
    st.dictionaries(st.sampled_from(STUDY_PLACES), values, max_size=2),
    st.dictionaries(
        st.sampled_from(SPACE_NAMES),
        values | st.dictionaries(st.sampled_from(SPACE_FIELDS), values, max_size=5),
        max_size=2,
    ),
    st.lists(st.dictionaries(st.sampled_from(SPACE_NAMES), values, max_size=2), max_size=2),
)
def test_any_values_in_a_study_are_accepted_or_refused_at_their_fields(tmp_path_factory, changes, space, baselines):
    folder = tmp_path_factory.getbasetemp()
    write(folder, experiment_fields())
    fields = study_fields({"baselines": baselines, "space": study_fields()["space"] | space} | changes)
    touched = {place.partition(".")[0] for place in changes}
    found = problems_of(load_study, write(folder, fields, "search.yaml"))
    assert {re.split(r"[.[]", field)[0] for field in found} <= {*touched, "space", "baselines", "sampler", "direction"}


@settings(deadline=None, max_examples=120)
@given(
    st.lists(
        st.text(max_size=12) | st.builds("{}={}".format, st.sampled_from(EXPERIMENT_PLACES + STUDY_PLACES), keys),
        max_size=2,
    )
)
def test_any_overrides_are_accepted_or_refused_in_words(tmp_path_factory, overrides):
    folder = tmp_path_factory.getbasetemp()
    write(folder, experiment_fields())
    try:
        load_study(write(folder, study_fields(), "search.yaml"), overrides)
    except ConfigError as error:
        assert str(error).startswith(("--set", str(folder)))


@pytest.mark.parametrize("folder", ["studies", "experiments"])
def test_a_stem_that_stands_twice_is_refused_with_its_twin(folder, tmp_path):
    first, second = tmp_path / folder / "a" / "pets.yaml", tmp_path / folder / "b" / "pets.yaml"
    for file in (first, second):
        file.parent.mkdir(parents=True)
        file.write_text("{}")
    with pytest.raises(ConfigError) as refused:
        load(first)
    assert f"{first}: its name must be unique, but there is {str(second)!r}" in str(refused.value).splitlines()


def test_a_study_and_its_experiment_may_share_a_stem(tmp_path):
    for folder in ("studies", "experiments"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "pets.yaml").write_text("{}")
    with pytest.raises(ConfigError) as refused:
        load(tmp_path / "experiments" / "pets.yaml")
    assert "unique" not in str(refused.value)


def test_an_override_replaces_the_alternatives_of_its_field(recipe):
    assert load_experiment(recipe(), ["optimizer.elr=0.2"]).optimizer.lr is None
    freeze = load_experiment(recipe({"freeze.unfrozen_stages": 2}), ["freeze.train.first=1"]).freeze
    assert (freeze.unfrozen_stages, freeze.train.first) == (None, 1)
    assert refused(load_experiment, recipe(), ["optimizer.elr=0.2", "optimizer.lr=0.1"]) == [
        "optimizer.lr: cannot stand beside elr (0.2), from which lr is derived; leave one out, got 0.1"
    ]


def test_an_override_sets_a_condition_of_a_space(search):
    loaded = load_study(search(), ["space.optimizer.lr.when.data.augment=none"])
    assert loaded.space["optimizer.lr"].when == {"data.augment": "none"}
