"""The `freeze` section by itself: what is accepted, and the one message that each mistake gives."""

import pytest
from pydantic import ValidationError

from fttune.config.freeze import Freeze
from fttune.config.problems import problems_of

FORMS = "last, first, stages, window, params, regex"
ONE = "exactly one says what trains"
# Every field of the section, and a right value of each.
FIELDS = {
    "unfrozen_stages": 0,
    "train": None,
    "phases": None,
    "auto": None,
    "preset": None,
    "k": None,
    "norm_stats": "frozen",
    "head.init": "keep",
    "head.frozen": False,
    "head.lr_mult": 2.0,
    "layer_decay": 0.5,
    "stage_lr": {"layer1": 0.1},
    "penalty": {"l2_sp": 0.1},
    "adapter": {"lora": {"rank": 4, "alpha": 8.0}},
}
PHASE = {"unfrozen_stages": 0, "epochs": 1}
WRONG = [
    ({"train": "al"}, f"train: must be all, none or one of {FORMS} with its value, got 'al'"),
    ({"train": 3}, f"train: must be all, none or one of {FORMS} with its value, got 3"),
    ({"train": {"frist": 2}}, f"train: must be one of {FORMS}, got 'frist'; did you mean 'first'?"),
    ({"train": {"first": 2, "last": 1}}, f"train: must hold exactly one of {FORMS}, got ['first', 'last']"),
    ({"train": {}}, f"train: must hold exactly one of {FORMS}, got []"),
    ({"train": {"first": -1}}, "train.first: must be >= 0, got -1"),
    ({"train": {"last": "x"}}, "train.last: must be a whole number, got 'x'"),
    (
        {"train": {"window": [3, 1]}},
        "train.window: must be [i, j] with 0 <= i <= j, stages counted from the input, got [3, 1]",
    ),
    ({"train": {"params": "nrom"}}, "train.params: must be one of norm, bias, got 'nrom'; did you mean 'norm'?"),
    ({"train": {"stages": ["a", "a"]}}, "train.stages: names the stage 'a' twice"),
    ({"train": {"stages": []}}, "train.stages: must not be empty, got []; use train: none"),
    (
        {"train": {"regex": "("}},
        "train.regex: is no regular expression (missing ), unterminated subpattern at position 0), got '('",
    ),
    ({"unfrozen_stages": 1, "auto": "rgn"}, f"unfrozen_stages: cannot stand beside auto: {ONE}"),
    ({"train": "all", "preset": "full"}, f"preset: cannot stand beside train: {ONE}"),
    ({"phases": [PHASE], "auto": "rgn"}, f"auto: cannot stand beside phases: {ONE}"),
    ({"train": "all", "unfrozen_stages": 0}, f"unfrozen_stages: cannot stand beside train: {ONE}"),
    ({"auto": "rng"}, "auto: must be one of rgn, snr, autofreeze, got 'rng'; did you mean 'rgn'?"),
    ({"preset": "lst_k"}, "preset: unknown name 'lst_k'; nearest: last_k, first_k, lp_ft"),
    ({"preset": "full", "k": 2}, "k: belongs to the presets last_k, first_k, surgical, got 2"),
    ({"k": 2}, "k: belongs to the presets last_k, first_k, surgical, got 2"),
    ({"phases": []}, "phases: must not be empty, got []"),
    ({"phases": [{"epochs": 2}]}, "phases[0].unfrozen_stages: required (or train): a phase must say what trains"),
    (
        {"phases": [{"train": "all", "unfrozen_stages": 1, "epochs": 2}]},
        "phases[0].unfrozen_stages: cannot stand beside train: exactly one says what trains in a phase",
    ),
    (
        {"phases": [PHASE, {"train": "all"}]},
        "phases[1].until_plateau: required (or epochs): a phase must say how long it lasts",
    ),
    (
        {"phases": [{**PHASE, "until_plateau": {}}]},
        "phases[0].until_plateau: cannot stand beside epochs: exactly one says how long a phase lasts",
    ),
    (
        {"phases": [{**PHASE, "lr": 0.1, "lr_mult": 0.1}]},
        "phases[0].lr_mult: cannot stand beside lr: at most one sets the lr of a phase",
    ),
    ({"phases": [{**PHASE, "epoch": 1}]}, "phases[0].epoch: unknown key; did you mean 'epochs'?"),
    ({"head": {"frozen": True, "lr_mult": 2.0}}, "head.lr_mult: cannot act on a frozen head, got 2"),
    ({"head": {"init": "new"}}, "head.init: must be one of auto, reset, keep, got 'new'"),
    ({"layer_decay": 1.1}, "layer_decay: must be <= 1, got 1.1"),
    ({"stage_lr": {"layer1": 0}}, "stage_lr.layer1: must be > 0, got 0"),
    ({"stage_lr": {}}, "stage_lr: must not be empty, got {}"),
    ({"penalty": {"l2_sp": 0}}, "penalty.l2_sp: must be > 0, got 0"),
    ({"penalty": {"l2sp": 1}}, "penalty.l2_sp: required field is missing"),
    ({"adapter": {"lora": {"rank": 0}}}, "adapter.lora.rank: must be >= 1, got 0"),
    ({"unfrozen_stage": 1}, "unfrozen_stage: unknown key; did you mean 'unfrozen_stages'?"),
]


@pytest.mark.parametrize(("fields", "message"), WRONG)
def test_a_mistake_gives_its_message_first(fields, message):
    with pytest.raises(ValidationError) as refused:
        Freeze.model_validate(fields)
    assert next(f"{p.field}: {p.message}" for p in problems_of(refused.value, Freeze)) == message


@pytest.mark.parametrize(("field", "value"), FIELDS.items())
def test_a_right_value_is_taken_as_it_is(field, value):
    section, _, leaf = field.partition(".")
    if value is None:
        assert Freeze.model_validate({section: value}) == Freeze()
        return
    taken = Freeze.model_validate({section: {leaf: value} if leaf else value}).model_dump()[section]
    assert (taken[leaf] if leaf else taken) == value


def test_without_a_selector_the_head_alone_trains():
    assert Freeze().unfrozen_stages == 0
    assert Freeze(auto="rgn").unfrozen_stages is None
    assert Freeze(preset="last_k").k == 1
    assert Freeze(preset="full").k is None
