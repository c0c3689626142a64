import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fttune.config import Experiment, known
from fttune.config.experiment import flatten
from fttune.config.fields import field_names, lies_in
from fttune.config.problems import problems_of

from . import test_freeze
from .examples import ABSENT, experiment, experiment_fields


def problems(changes) -> list[str]:
    """The problems of the smallest experiment with some fields changed."""
    try:
        Experiment.model_validate(experiment_fields(changes))
    except ValidationError as error:
        return [f"{problem.field}: {problem.message}" for problem in problems_of(error, Experiment)]
    return []


STEP = {"training.schedule": "step", "training.step_epochs": 1}
CSV = {"data.source": "csv", "data.path": "x.csv"}
RESNET50 = {"backbone.name": "resnet50"}
POLYNOMIAL, PLATEAU = {"training.schedule": "polynomial"}, {"training.schedule": "plateau"}
SCHEDULES = "constant, cosine, step, polynomial, one_cycle, plateau"

MAPPING = "must be a mapping of fields, got {}"
KINDS = "label_flip, contrast, rotate, permute_pixels"
AUGMENTATIONS = "none, flip, standard, {views: V}"
ROTATED = {"shift": {"rotate": 30}}

# field: (right values, {wrong value: message}, what else is changed)
DEPTHS = "must be a whole number >= 0, a share of the stages in 0.0..1.0, or all"
FIELDS = [
    ("task", ["classification"], {"detection": "must be classification, got 'detection'"}, {}),
    ("seed", [0, 2**32 - 1], {-1: "must be >= 0, got -1", 2**32: "must be < 4294967296, got 4294967296"}, {}),
    ("seed", [], {1.0: "must be a whole number, got 1.0", "1": "must be a whole number, got '1'"}, {}),
    ("seed", [], {True: "must be a whole number, got True", None: "must be a whole number, got None"}, {}),
    ("data.source", ["digits", *(f"torchvision:{n}" for n in known.torchvision_datasets())], {}, {}),
    ("data.source", [], {5: "must be text, got 5"}, {}),
    (
        "data.source",
        [],
        {
            name: f"must be one of digits, folder, csv, torchvision:<DatasetName>, got {name!r}{near}"
            for name, near in [
                ("digit", "; did you mean 'digits'?"),
                ("Folder", "; did you mean 'folder'?"),
                ("digits:", "; did you mean 'digits'?"),
                ("zip", ""),
                ("", ""),
            ]
        },
        {},
    ),
    (
        "data.source",
        [],
        {
            "torchvision": "must be torchvision:<DatasetName>, got 'torchvision'",
            "torchvision:": "must be torchvision:<DatasetName>, got 'torchvision:'",
            "torchvision:cifar10": "unknown name 'cifar10'; nearest: CIFAR10, CIFAR100, Flowers102",
            "torchvision:Zzzzzz": "unknown name 'Zzzzzz'",
        },
        {},
    ),
    (
        "data.path",
        ["x"],
        {None: "required for source folder", "": "required for source folder"},
        {"data.source": "folder"},
    ),
    ("data.path", ["x"], {None: "required for source csv", 3: "must be text, got 3"}, {"data.source": "csv"}),
    ("data.path", [None], {"x": "source digits has no path, got 'x'", "": "source digits has no path, got ''"}, {}),
    ("data.path", [None], {"x": "source torchvision:SVHN has no path, got 'x'"}, {"data.source": "torchvision:SVHN"}),
    ("data.image_size", [1, 8], {0: "must be >= 1, got 0", 4097: "must be <= 4096, got 4097"}, {}),
    ("data.image_size", [1, 4096], {None: "must be a whole number, got None"}, {"data.resize": None}),
    ("data.resize", [None, 8, 8192], {7: "must be >= image_size (8), got 7", 8193: "must be <= 8192, got 8193"}, {}),
    (
        "data.split",
        [{}, {"val": 0}],
        {5: "must be a mapping of fields, got 5", None: "must be a mapping of fields, got None"},
        {},
    ),
    (
        "data.shift",
        ["none", {"label_flip": True}, {"contrast": 1}, {"rotate": -180}, {"permute_pixels": 0}],
        {value: f"must be none or one of {KINDS} with its value, got {value!r}" for value in (None, 5, "rotate", True)},
        {},
    ),
    ("data.also_evaluate", [None, {"ood": ROTATED}, {"clean_2": {"shift": "none"}}], {5: MAPPING.format(5)}, {}),
    ("data.split.val", [0, 0.0, 0.79], {-0.1: "must be >= 0, got -0.1", 1: "must be < 1, got 1"}, {}),
    ("data.split.val", [], {"0.2": "must be a number, got '0.2'", False: "must be a number, got False"}, {}),
    ("data.split.test", [0, 0.79], {0.8: "val + test must leave images to train on, got 1 of 1"}, {}),
    ("data.split.test", [], {0.95: "val + test must leave images to train on, got 1.15 of 1"}, {}),
    ("data.split.seed", [5], {-1: "must be >= 0, got -1"}, {}),
    ("data.split.group_by", [None, "patient"], {5: "must be text, got 5"}, CSV),
    (
        "data.split.group_by",
        [None],
        {"patient": "names a column of a CSV file, but the source is digits, got 'patient'"},
        {},
    ),
    (
        "data.augment",
        ["none", "flip", "standard", {"views": 2}, {"views": 100, "kind": "flip"}],
        {
            "flips": f"must be one of {AUGMENTATIONS}, got 'flips'; did you mean 'flip'?",
            None: f"must be one of {AUGMENTATIONS}, got None; did you mean 'none'?",
            5: f"must be one of {AUGMENTATIONS}, got 5",
            True: f"must be one of {AUGMENTATIONS}, got True",
        },
        {},
    ),
    ("data.limit_per_class", [None, 1], {0: "must be >= 1, got 0"}, {}),
    ("data.on_bad_image", ["error", "skip"], {"warn": "must be one of error, skip, got 'warn'"}, {}),
    ("backbone.name", list(known.backbones()), {7: "must be text, got 7"}, {}),
    ("backbone.weights", ["none", "experiment:a", "w.safetensors", "a/b.pt", "c.pth", "d.bin"], {}, {}),
    (
        "backbone.weights",
        [],
        {"DEFAULT": "cifar_resnet8 has no published weights; use none, a file or experiment:<name>"},
        {},
    ),
    (
        "backbone.weights",
        [],
        {"None": "must be one of none, experiment:<name>, <file.safetensors>, got 'None'; did you mean 'none'?"},
        {},
    ),
    (
        "backbone.weights",
        ["none", "DEFAULT", "IMAGENET1K_V2"],
        {
            "IMAGENET1K_V3": "must be one of none, DEFAULT, IMAGENET1K_V1, IMAGENET1K_V2, experiment:<name>, "
            "<file.safetensors>, got 'IMAGENET1K_V3'; did you mean 'IMAGENET1K_V2'?",
            "experiment:": "experiment:<name> needs the stem of a file, got 'experiment:'",
            "experiment:../x": "experiment:<name> needs the stem of a file, got 'experiment:../x'",
        },
        RESNET50,
    ),
    (
        "freeze.unfrozen_stages",
        [0, 4, "all"],
        {5: "must be 0..4 (the stages are stem, layer1, layer2, layer3), got 5"},
        {},
    ),
    ("freeze.unfrozen_stages", [5, "all", 0.0, 0.5, 1.0], {}, RESNET50),
    (
        "freeze.unfrozen_stages",
        [],
        {
            -1: f"{DEPTHS}, got -1",
            1.5: f"{DEPTHS}, got 1.5",
            "ALL": f"{DEPTHS}, got 'ALL'",
        },
        {},
    ),
    ("freeze.unfrozen_stages", [], {True: f"{DEPTHS}, got True"}, {}),
    (
        "freeze.norm_stats",
        ["frozen", "all_frozen", "updated"],
        {"update": "must be one of frozen, all_frozen, updated, got 'update'; did you mean 'updated'?"},
        {},
    ),
    ("optimizer.name", ["sgd", "adamw"], {"SDG": "must be one of sgd, adamw, got 'SDG'; did you mean 'sgd'?"}, {}),
    ("optimizer.lr", [1e-9, 1, 1e3], {0: "must be > 0, got 0", -1.5: "must be > 0, got -1.5"}, {}),
    ("optimizer.lr", [], {"1e-3": "must be a number, got '1e-3'", True: "must be a number, got True"}, {}),
    (
        "optimizer.lr",
        [],
        {float("inf"): "must be a finite number, got inf", float("nan"): "must be a finite number, got nan"},
        {},
    ),
    ("optimizer.elr", [], {0: "must be > 0, got 0", "x": "must be a number, got 'x'"}, {"optimizer.lr": ABSENT}),
    ("optimizer.elr", [0.1, 5], {}, {"optimizer.lr": ABSENT}),
    (
        "optimizer.elr",
        [],
        {0.1: "belongs to sgd, but the optimizer is adamw, got 0.1; give lr"},
        {"optimizer.lr": ABSENT, "optimizer.name": "adamw"},
    ),
    (
        "optimizer.lr",
        [],
        {0.5: "cannot stand beside elr (0.1), from which lr is derived; leave one out, got 0.5"},
        {"optimizer.elr": 0.1},
    ),
    ("optimizer.momentum", [0, 0.999], {1: "must be < 1, got 1", -0.1: "must be >= 0, got -0.1"}, {}),
    ("optimizer.momentum", [], {None: "must be a number for sgd (0 for none), got None"}, {}),
    (
        "optimizer.momentum",
        [None],
        {0.9: "belongs to sgd, but the optimizer is adamw, got 0.9"},
        {"optimizer.name": "adamw"},
    ),
    ("optimizer.nesterov", [True, False], {1: "must be true or false, got 1"}, {}),
    ("optimizer.nesterov", [False], {True: "needs momentum > 0, got momentum 0"}, {"optimizer.momentum": 0.0}),
    (
        "optimizer.nesterov",
        [False],
        {True: "belongs to sgd, but the optimizer is adamw, got True"},
        {"optimizer.name": "adamw"},
    ),
    ("optimizer.weight_decay", [0, 0.1], {-1e-9: "must be >= 0, got -1e-09"}, {}),
    ("optimizer.clip_grad_norm", [None, 0.1], {0: "must be > 0, got 0"}, {}),
    ("training.epochs", [1, 100_000], {0: "must be >= 1, got 0", 100_001: "must be <= 100000, got 100001"}, {}),
    ("training.batch_size", [1, 4096], {0: "must be >= 1, got 0", 32.0: "must be a whole number, got 32.0"}, {}),
    (
        "training.schedule",
        ["constant", "cosine", "polynomial", "one_cycle", "plateau"],
        {"cosin": f"must be one of {SCHEDULES}, got 'cosin'; did you mean 'cosine'?"},
        {},
    ),
    ("training.warmup_epochs", [0, 1.9], {-1: "must be >= 0, got -1", 2: "must be < epochs (2), got 2"}, {}),
    ("training.step_epochs", [1, 5], {0: "must be >= 1, got 0", None: "required for schedule step"}, STEP),
    (
        "training.step_epochs",
        [None],
        {3: "belongs to schedule step, but the schedule is cosine, got 3"},
        {"training.schedule": "cosine"},
    ),
    ("training.step_factor", [0.5, 1], {0: "must be > 0, got 0", 1.1: "must be <= 1, got 1.1"}, STEP),
    ("training.step_factor", [], {None: "required for schedule step"}, STEP),
    ("training.step_factor", [None], {0.5: "belongs to schedule step, but the schedule is constant, got 0.5"}, {}),
    ("training.power", [0.5, 2], {0: "must be > 0, got 0", None: "required for schedule polynomial"}, POLYNOMIAL),
    ("training.power", [None], {2.0: "belongs to schedule polynomial, but the schedule is constant, got 2"}, {}),
    ("training.plateau_factor", [0.1, 0.9], {1: "must be < 1, got 1", None: "required for schedule plateau"}, PLATEAU),
    (
        "training.plateau_factor",
        [None],
        {0.5: "belongs to schedule plateau, but the schedule is constant, got 0.5"},
        {},
    ),
    ("training.plateau_patience_epochs", [0, 9], {-1: "must be >= 0, got -1"}, PLATEAU),
    (
        "training.plateau_patience_epochs",
        [None],
        {3: "belongs to schedule plateau, but the schedule is constant, got 3"},
        {},
    ),
    (
        "training.warmup_epochs",
        [0],
        {1: "must be 0 for schedule one_cycle, which has a warm-up of its own, got 1"},
        {"training.schedule": "one_cycle"},
    ),
    ("training.label_smoothing", [0, 0.99], {1: "must be < 1, got 1"}, {}),
    ("training.class_weights", ["none", "balanced"], {"auto": "must be one of none, balanced, got 'auto'"}, {}),
    ("training.early_stop_epochs", [None, 1], {0: "must be >= 1, got 0"}, {}),
    (
        "training.monitor",
        ["val/loss", "val/accuracy", "val/balanced_accuracy", "val/macro_f1", "val/top5_accuracy"],
        {
            "val/acc": "must be one of val/loss, val/accuracy, val/balanced_accuracy, val/macro_f1, "
            "val/top5_accuracy, got 'val/acc'; did you mean 'val/accuracy'?"
        },
        {},
    ),
    (
        "training.precision",
        ["auto", "fp32", "bf16", "float64"],
        {"fp16": "must be one of auto, fp32, bf16, float64, got 'fp16'; did you mean 'bf16'?"},
        {},
    ),
    (
        "training.device",
        ["auto", "cpu", "mps", "cuda", "cuda:1"],
        {name: f"must be auto, cpu, mps, cuda or cuda:<number>, got {name!r}" for name in ("gpu", "cuda:", "cpu\n")},
        {},
    ),
]
RIGHT = [(field, value, others) for field, right, _, others in FIELDS for value in right]
WRONG = [(field, value, message, others) for field, _, wrong, others in FIELDS for value, message in wrong.items()]


@pytest.mark.parametrize(("field", "value", "others"), RIGHT)
def test_a_right_value_is_accepted_as_it_is(field, value, others):
    built = Experiment.model_validate(experiment_fields({**others, field: value}))
    flat = flatten(built.model_dump())
    if not isinstance(value, dict):
        assert flat[field] == value


@pytest.mark.parametrize(("field", "value", "message", "others"), WRONG)
def test_a_wrong_value_gives_one_problem_at_its_field(field, value, message, others):
    assert problems({**others, field: value}) == [f"{field}: {message}"]


def test_the_table_above_names_every_field_of_an_experiment():
    tested = {field for field, *_ in FIELDS} - {"data.split"}
    others = {f"freeze.{field}" for field in test_freeze.FIELDS} | {"data.classes"}
    names = field_names(Experiment)
    assert tested | others == {n for n in names if not any(n != other and lies_in(n, other) for other in names)}


def test_class_names_may_look_like_numbers():
    assert experiment(data__classes=[5, "cat", 2021]).data.classes == ("5", "cat", "2021")
    assert experiment(data__classes=("5", "6")).data.classes == ("5", "6")
    assert experiment(data__classes=None).data.classes is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "must be a list of class names, got []"),
        ("cat", "must be a list of class names, got 'cat'"),
        ({"cat": 1}, "must be a list of class names, got {'cat': 1}"),
        (["cat", 1.5], "must be a list of class names, got 1.5 in it; quote it if it is a name"),
        (["cat", True], "must be a list of class names, got True in it; quote it if it is a name"),
        (["cat", None], "must be a list of class names, got None in it; quote it if it is a name"),
        (["cat", ["dog"]], "must be a list of class names, got ['dog'] in it; quote it if it is a name"),
        (["cat", "dog", "cat"], "names the class 'cat' twice"),
        ([5, "5"], "names the class '5' twice"),
    ],
)
def test_class_names_are_a_list_of_different_names(value, message):
    assert problems({"data.classes": value}) == [f"data.classes: {message}"]


def test_a_misspelt_backbone_is_answered_with_the_nearest():
    for wrong, nearest in (("resnt50", "resnet50"), ("ResNet18", "resnet18")):
        assert problems({"backbone.name": wrong})[0].startswith(
            f"backbone.name: unknown name {wrong!r}; nearest: {nearest}"
        )


@pytest.mark.parametrize("name", ["timm:resnet50", "timm:vit_tiny_patch16_224.augreg_in21k", "plugin:mynet"])
def test_backbones_from_timm_and_plugins_are_taken_by_their_form_and_at_any_depth(name):
    fields = {"backbone.name": name, "backbone.weights": "none", "freeze.unfrozen_stages": 99}
    assert problems(fields) == []


@pytest.mark.parametrize("name", ["timm:", "plugin:../x", "timm:a b", "plugin:a/b"])
def test_a_name_of_timm_or_a_plugin_must_be_a_name(name):
    assert problems({"backbone.name": name})[0].startswith(
        f"backbone.name: {name.partition(':')[0]}:<name> needs a name"
    )


def test_timm_has_default_weights_and_a_plugin_has_none_of_its_own():
    assert problems({"backbone.name": "timm:resnet50", "backbone.weights": "DEFAULT"}) == []
    assert "one of none, DEFAULT" in problems({"backbone.name": "timm:resnet50", "backbone.weights": "V1"})[0]
    rule = "backbone.weights: plugin:x has no published weights; use none, a file or experiment:<name>"
    assert problems({"backbone.name": "plugin:x", "backbone.weights": "DEFAULT"}) == [rule]


@pytest.mark.parametrize("name", known.backbones())
def test_every_backbone_takes_its_own_weights_and_depths_and_no_more(name):
    backbone = known.backbones()[name]
    for weights in ("none", *(("DEFAULT", *backbone.weights) if backbone.weights else ())):
        assert problems({"backbone.name": name, "backbone.weights": weights}) == []
    deepest = len(backbone.stages)
    assert problems({"backbone.name": name, "freeze.unfrozen_stages": deepest}) == []
    [refusal] = problems({"backbone.name": name, "freeze.unfrozen_stages": deepest + 1})
    first, last = ", ".join(backbone.stages[:4]), backbone.stages[-1]  # long lists are cut in the middle
    assert refusal.startswith(f"freeze.unfrozen_stages: must be 0..{deepest} (the stages are {first}")
    assert refusal.endswith(f"{last}), got {deepest + 1}")


@pytest.mark.parametrize("field", ["data", "data.source", "backbone", "backbone.name", "optimizer", "optimizer.lr"])
def test_a_missing_field_is_named(field):
    assert problems({field: ABSENT}) == [f"{field}: required field is missing"]


@pytest.mark.parametrize(
    ("field", "near"),
    [
        ("sede", "; did you mean 'seed'?"),
        ("backbon", "; did you mean 'backbone'?"),
        ("name_", ""),
        ("data.sorce", "; did you mean 'source'?"),
        ("data.split.tests", "; did you mean 'test'?"),
        ("backbone.nam", "; did you mean 'name'?"),
        ("training.LR", ""),
        ("optimizer.LR", "; did you mean 'lr'?"),
        ("confirm", ""),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest_of_its_own_section(field, near):
    assert problems({field: 1}) == [f"{field}: unknown key{near}"]


@pytest.mark.parametrize("section", ["data", "backbone", "freeze", "optimizer", "training"])
@pytest.mark.parametrize("value", [None, 5, "sgd", [1], [], True])
def test_a_section_that_is_no_mapping_is_named(section, value):
    assert problems({section: value}) == [f"{section}: must be a mapping of fields, got {value!r}"]


def test_a_broken_field_hides_no_other_problem_of_its_section():
    changes = {"data.image_size": 0, "data.path": "x", "data.split.val": 2, "data.split.group_by": "g"}
    assert problems(changes) == [
        "data.path: source digits has no path, got 'x'",
        "data.image_size: must be >= 1, got 0",
        "data.split.val: must be < 1, got 2",
    ]
    assert problems({"optimizer.lr": -1, "optimizer.name": "adamw", "optimizer.momentum": 0.5}) == [
        "optimizer.lr: must be > 0, got -1",
        "optimizer.momentum: belongs to sgd, but the optimizer is adamw, got 0.5",
    ]


def test_the_default_of_another_broken_field_is_not_reported():
    assert problems({"optimizer.lr": -1}) == ["optimizer.lr: must be > 0, got -1"]
    assert problems({"training.schedule": "stp"})[0].startswith("training.schedule: must be one of")
    assert len(problems({"training.schedule": "stp", "training.epochs": 0})) == 2


def test_all_rules_between_sections_are_reported_at_once():
    changes = {"freeze.unfrozen_stages": 9, "data.split.group_by": "g"}
    assert [line.split(":")[0] for line in problems(changes)] == ["freeze.unfrozen_stages", "data.split.group_by"]


@pytest.mark.parametrize(
    ("shift", "message"),
    [
        ({}, f": must hold exactly one of {KINDS}, got []"),
        ({"rotate": None}, f": must hold exactly one of {KINDS}, got []"),
        ({"rotate": 1, "contrast": 7}, f": must hold exactly one of {KINDS}, got ['rotate', 'contrast']"),
        ({"rotat": 1}, f": must be one of {KINDS}, got 'rotat'; did you mean 'rotate'?"),
        ({"label_flip": False}, ".label_flip: must be true, got False"),
        ({"label_flip": 1}, ".label_flip: must be true, got 1"),
        ({"contrast": 0}, ".contrast: must be > 0, got 0"),
        ({"contrast": 1.5}, ".contrast: must be <= 1, got 1.5"),
        ({"rotate": "30"}, ".rotate: must be a number, got '30'"),
        ({"rotate": 181}, ".rotate: must be <= 180, got 181"),
        ({"permute_pixels": -1}, ".permute_pixels: must be >= 0, got -1"),
        ({"permute_pixels": 1.5}, ".permute_pixels: must be a whole number, got 1.5"),
    ],
    ids=str,
)
def test_a_mistake_in_a_shift_is_one_message(shift, message):
    assert problems({"data.shift": shift}) == [f"data.shift{message}"]
    assert problems({"data.also_evaluate": {"ood": {"shift": shift}}}) == [f"data.also_evaluate.ood.shift{message}"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, ": must not be empty, got {}"),
        ({"ood": {}}, ".ood.shift: required field is missing"),
        ({"ood": 5}, ".ood: must be a mapping of fields, got 5"),
        ({"val": ROTATED}, ": names must not be train, val, test, drift, relative_grad_norm, got 'val'"),
        ({"o-o-d": ROTATED}, ": names must be letters, digits and _, the first a letter, got 'o-o-d'"),
        ({"2nd": ROTATED}, ": names must be letters, digits and _, the first a letter, got '2nd'"),
        ({"ood\n": ROTATED}, ": names must be letters, digits and _, the first a letter, got 'ood\\n'"),
    ],
    ids=str,
)
def test_a_mistake_beside_the_shifts_to_evaluate_is_one_message(value, message):
    assert problems({"data.also_evaluate": value}) == [f"data.also_evaluate{message}"]


@pytest.mark.parametrize("augment", ["standard", {"views": 2}])
def test_permuted_pixels_are_not_cropped_at_random(augment):
    shift, standard = {"permute_pixels": 1}, {"data.augment": augment}
    (problem,) = problems({"data.shift": shift, **standard})
    assert problem.startswith("data.shift: permute_pixels cannot be combined with augment: standard")
    assert problems({"data.shift": {"rotate": 1}, **standard}) == []
    assert problems({"data.also_evaluate": {"ood": {"shift": shift}}, **standard}) == []
    assert problems({"data.shift": shift, "data.augment": {"views": 2, "kind": "flip"}}) == []


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        ({}, ".views: required field is missing"),
        ({"kind": "flip"}, ".views: required field is missing"),
        ({"views": 1}, ".views: must be >= 2, got 1"),
        ({"views": 101}, ".views: must be <= 100, got 101"),
        ({"views": 4.0}, ".views: must be a whole number, got 4.0"),
        ({"views": 4, "kind": "flp"}, ".kind: must be one of standard, flip, got 'flp'; did you mean 'flip'?"),
        ({"views": 4, "kind": "none"}, ".kind: must be one of standard, flip, got 'none'"),
        ({"views": 4, "kinds": "flip"}, ".kinds: unknown key; did you mean 'kind'?"),
    ],
    ids=str,
)
def test_a_mistake_in_views_is_one_message(augment, message):
    assert problems({"data.augment": augment}) == [f"data.augment{message}"]


def test_views_are_standard_unless_they_say_otherwise_and_survive_replace():
    found = experiment(data__augment={"views": 3}).replace({"seed": 1})
    assert {k: v for k, v in found.params().items() if k.startswith("data.augment")} == {
        "data.augment.views": 3,
        "data.augment.kind": "standard",
    }
    assert Experiment.model_validate(found.model_dump()) == found
    assert experiment().replace({"data.augment.views": 3}).data == experiment(data__augment={"views": 3}).data
    assert found.replace({"data.augment": "flip"}).data.augment == "flip"


@pytest.mark.parametrize(
    ("augment", "fresh", "crops"),
    [
        ("none", "none", False),
        ("flip", "flip", False),
        ("standard", "standard", True),
        ({"views": 2}, "none", True),
        ({"views": 2, "kind": "flip"}, "none", False),
    ],
)
def test_fixed_views_are_not_fresh_but_may_be_crops(augment, fresh, crops):
    data = experiment(data__augment=augment).data
    assert (data.fresh_augment, data.crops) == (fresh, crops)


def test_params_of_a_shift_hold_its_own_kind_alone_and_survive_replace():
    shifted = experiment(data__shift={"contrast": 0.5}, data__also_evaluate={"ood": ROTATED})
    found = {k: v for k, v in shifted.replace({"seed": 1}).params().items() if k.startswith(("data.shift", "data.al"))}
    assert found == {"data.shift.contrast": 0.5, "data.also_evaluate.ood.shift.rotate": 30}
    assert Experiment.model_validate(shifted.model_dump()) == shifted
    assert experiment().replace({"data.shift.rotate": 9}).params()["data.shift.rotate"] == 9


def test_momentum_is_0_9_for_sgd_and_absent_for_adamw_unless_given():
    assert experiment().optimizer.momentum == 0.9
    assert experiment(optimizer__name="sgd").optimizer.momentum == 0.9
    assert experiment(optimizer__momentum=0).optimizer.momentum == 0
    assert experiment(optimizer__name="adamw").optimizer.momentum is None


def test_step_factor_is_a_tenth_for_schedule_step_and_absent_otherwise():
    assert experiment(training__schedule="step", training__step_epochs=1).training.step_factor == 0.1
    assert experiment(training__schedule="cosine").training.step_factor is None


def test_an_experiment_is_frozen_hashable_and_equal_to_its_twin():
    one = experiment(data__classes=[1, 2])
    assert {one: 1}[experiment(data__classes=["1", "2"])] == 1
    with pytest.raises(ValidationError, match="frozen"):
        one.seed = 1


def test_params_are_every_field_by_dotted_path_with_defaults_and_without_the_name():
    params = experiment().params()
    assert params["optimizer.weight_decay"] == 0.0
    assert params["data.split.val"] == 0.2
    assert "name" not in params


def test_replace_fills_dotted_fields_and_keeps_the_rest():
    base = experiment(optimizer__lr=0.5)
    other = base.replace({"optimizer.lr": 1, "freeze.unfrozen_stages": "all", "seed": 7})
    assert (other.optimizer.lr, other.freeze.unfrozen_stages, other.seed) == (1.0, "all", 7)
    assert {k for k, v in other.params().items() if v != base.params()[k]} == {
        "optimizer.lr",
        "freeze.unfrozen_stages",
        "seed",
    }
    assert base.optimizer.lr == 0.5


def test_replace_of_nothing_is_the_same_experiment_and_keeps_its_name():
    base = Experiment.model_validate({**experiment_fields(), "name": "pets"})
    assert base.replace({}) == base
    assert base.replace({"seed": 1}).name == "pets"
    assert base.replace({"name": "dogs"}).name == "dogs"


def test_replace_lets_defaults_follow_the_new_values():
    assert experiment().replace({"optimizer.name": "adamw"}).optimizer.momentum is None
    step = experiment().replace({"training.schedule": "step", "training.step_epochs": 1})
    assert step.training.step_factor == 0.1


def test_replace_takes_out_alternatives_and_what_cannot_act():
    base = experiment(optimizer__momentum=0.5, optimizer__nesterov=True, freeze__unfrozen_stages=2)
    adamw = base.replace({"optimizer.name": "adamw"})
    assert (adamw.optimizer.momentum, adamw.optimizer.nesterov, adamw.optimizer.lr) == (None, False, 0.01)
    elr = base.replace({"optimizer.elr": 0.2})
    assert (elr.optimizer.lr, elr.optimizer.learning_rate) == (None, 0.1)
    first = base.replace({"freeze.train.first": 1})
    assert (first.freeze.unfrozen_stages, first.freeze.train.first) == (None, 1)
    last = first.replace({"freeze.train.last": 2})
    assert (last.freeze.train.first, last.freeze.train.last) == (None, 2)
    assert last.replace({"freeze.unfrozen_stages": 1}).freeze == base.replace({"freeze.unfrozen_stages": 1}).freeze
    decayed = experiment(freeze__unfrozen_stages=2, freeze__layer_decay=0.5)
    assert decayed.replace({"freeze.unfrozen_stages": 0}).freeze.layer_decay is None
    assert decayed.replace({"freeze.unfrozen_stages": 1}).freeze.layer_decay == 0.5


@pytest.mark.parametrize(("elr", "momentum", "lr"), [(0.1, 0.9, 0.01), (0.3, 0.0, 0.3), (1, 0.99, 0.01)])
def test_the_lr_of_an_effective_lr_is_the_decimal_product(elr, momentum, lr):
    fields = {"optimizer.lr": ABSENT, "optimizer.elr": elr, "optimizer.momentum": momentum}
    given = Experiment.model_validate(experiment_fields(fields))
    assert given.optimizer.learning_rate == lr
    assert (given.params()["optimizer.elr"], given.params()["optimizer.lr"]) == (elr, lr)


def test_replace_refuses_what_is_no_recipe():
    explicit = experiment(optimizer__momentum=0.9)
    both = {"optimizer.name": "adamw", "optimizer.momentum": 0.9}
    for values in (both, {"seed.x": 1}, {"a.b": 1}, {"": 1}, {"seed": None}, {"data": None}):
        with pytest.raises(ValidationError):
            explicit.replace(values)


def test_refusal_is_the_first_problem_in_words_and_none_for_a_recipe():
    base = experiment(optimizer__momentum=0.9)
    assert base.refusal({}) is None
    assert base.refusal({"optimizer.lr": 3}) is None
    assert base.refusal({"optimizer.lr": -1}) == "optimizer.lr: must be > 0, got -1"
    assert base.refusal({"optimizer.lr": "x", "seed": -1}) == "optimizer.lr: must be a number, got 'x'"
    expected = "optimizer.momentum: belongs to sgd, but the optimizer is adamw, got 0.9"
    assert base.refusal({"optimizer.name": "adamw", "optimizer.momentum": 0.9}) == expected
    assert base.refusal({"optimizer.lrr": 1}) == "optimizer.lrr: unknown key; did you mean 'lr'?"
    assert base.refusal({"seed.x": 1}) == "seed: must be a whole number, got {'x': 1}"


def test_problems_are_all_reasons_against_a_replacement():
    found = experiment().problems({"optimizer.lr": -1, "seed": -1})
    assert [problem.field for problem in found] == ["optimizer.lr", "seed"]
    assert experiment().problems({"optimizer.lr": 1}) == []


def test_the_name_is_a_stem():
    for name in ("a", "A-1_b.c", "9", "x" * 100):
        assert Experiment.model_validate({**experiment_fields(), "name": name}).name == name
    for name in ("", ".x", "-x", "a b", "a/b", "x" * 101, "a\n", "é"):
        with pytest.raises(ValidationError, match="name"):
            Experiment.model_validate({**experiment_fields(), "name": name})


leaves = st.none() | st.integers() | st.text(max_size=3)
sections = st.recursive(
    st.dictionaries(st.text("abc", min_size=1, max_size=2), leaves, min_size=1, max_size=3),
    lambda inner: st.dictionaries(st.text("abc", min_size=1, max_size=2), leaves | inner, min_size=1, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=50)
@given(sections)
@example({"a": {"b": {"c": 1}}, "b": [1]})
def test_flatten_keeps_every_leaf_under_its_path(tree):
    flat = flatten(tree)
    rebuilt: dict = {}
    for dotted, value in flat.items():
        *parents, last = dotted.split(".")
        place = rebuilt
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    assert rebuilt == tree


def test_pydantic_reports_of_python_callers_are_put_in_words_too():
    with pytest.raises(ValidationError) as caught:
        Experiment.model_validate({1: 2, **experiment_fields()})
    assert [p.message for p in problems_of(caught.value, Experiment)] == ["keys must be text, got 1"]
    with pytest.raises(ValidationError) as caught:
        Experiment.model_validate(5)
    assert [(p.field, p.message) for p in problems_of(caught.value, Experiment)] == [
        ("", "must be a mapping of fields, got 5")
    ]
