"""What a `freeze` section means for stages, and what contradicts them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fttune.config.freeze import Freeze
from fttune.config.policy import resolve
from fttune.config.presets import PRESETS
from fttune.errors import PolicyRefused

STAGES = ["stem", "layer1", "layer2", "layer3"]
LISTED = "stem, layer1, layer2, layer3"


def policy(epochs=6, stages=STAGES, **fields):
    return resolve(Freeze.model_validate(fields), stages, epochs=epochs)


def trained(**fields):
    return list(policy(**fields).phases[0].stages)


@pytest.mark.parametrize(
    ("fields", "stages"),
    [
        ({}, []),
        ({"unfrozen_stages": 1}, ["layer3"]),
        ({"unfrozen_stages": "all"}, STAGES),
        ({"train": "all"}, STAGES),
        ({"train": "none"}, []),
        ({"train": {"last": 2}}, ["layer2", "layer3"]),
        ({"train": {"first": 2}}, ["stem", "layer1"]),
        ({"train": {"first": 0}}, []),
        ({"train": {"window": [1, 2]}}, ["layer1", "layer2"]),
        ({"train": {"window": [0, 0]}}, ["stem"]),
        ({"train": {"stages": ["layer3", "stem"]}}, ["stem", "layer3"]),
        ({"train": {"params": "norm"}}, STAGES),
        ({"train": {"regex": "bn"}}, STAGES),
        ({"auto": "rgn"}, STAGES),
    ],
)
def test_each_selector_names_the_stages_in_which_something_trains(fields, stages):
    assert trained(**fields) == stages


@given(count=st.integers(1, 40), data=st.data())
def test_last_and_first_are_slices_and_windows_lie_between(count, data):
    stages = [f"s{i}" for i in range(count)]
    k = data.draw(st.integers(0, count))
    i, j = sorted(data.draw(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1))))
    assert trained(stages=stages, train={"last": k}) == trained(stages=stages, unfrozen_stages=k) == stages[count - k :]
    assert trained(stages=stages, train={"first": k}) == stages[:k]
    assert trained(stages=stages, train={"window": [i, j]}) == stages[i : j + 1]


PHASES = [{"unfrozen_stages": 0, "epochs": 2}, {"train": "all", "epochs": 4}]
REFUSED = [
    ({"unfrozen_stages": 5}, f"freeze.unfrozen_stages: must be 0..4 (the stages are {LISTED}), got 5"),
    ({"train": {"last": 5}}, f"freeze.train.last: must be 0..4 (the stages are {LISTED}), got 5"),
    ({"train": {"first": 5}}, f"freeze.train.first: must be 0..4 (the stages are {LISTED}), got 5"),
    ({"train": {"window": [2, 4]}}, f"freeze.train.window: must lie within 0..3 ({LISTED}), got [2, 4]"),
    (
        {"train": {"stages": ["layr1"]}},
        f"freeze.train.stages: there is no stage 'layr1', only {LISTED}; did you mean 'layer1'?",
    ),
    (
        {"stage_lr": {"layer9": 0.1}},
        f"freeze.stage_lr.layer9: there is no stage 'layer9', only {LISTED}; did you mean 'layer3'?",
    ),
    (
        {"train": "none", "head": {"frozen": True}},
        "freeze.head.frozen: must be false where no stage trains: nothing would train",
    ),
    (
        {"phases": PHASES, "head": {"frozen": True}},
        "freeze.head.frozen: must be false where no stage trains in phase 0: nothing would train",
    ),
    ({"phases": PHASES[:1]}, "freeze.phases: their epochs must add up to training.epochs (6), got 2"),
    (
        {"phases": [{"train": "all", "until_plateau": {}}, {"unfrozen_stages": 0, "epochs": 6}]},
        "freeze.phases: must fit into training.epochs (6), got 6 epochs and 1 until_plateau of at least one each",
    ),
    (
        {"phases": [{"unfrozen_stages": 7, "epochs": 6}]},
        f"freeze.phases[0].unfrozen_stages: must be 0..4 (the stages are {LISTED}), got 7",
    ),
    ({"preset": "last_k", "k": 5}, "freeze.k: must be 0..4, the number of stages, got 5"),
    ({"preset": "surgical", "k": 4}, "freeze.k: must be 0..3 (the number of a stage from the input), got 4"),
    ({"preset": "lp_ft", "epochs": 1}, "freeze.preset: lp_ft needs at least 2 epochs, got training.epochs 1"),
    (
        {"preset": "layerwise", "layer_decay": 0.9},
        "freeze.layer_decay: is filled in by the preset layerwise; leave it out, or write the policy out without a "
        "preset",
    ),
    (
        {"auto": "snr", "adapter": {"lora": {}}},
        "freeze.adapter: cannot stand beside auto: snr, which watches the stages' own weights",
    ),
    (
        {"train": "all", "adapter": {"lora": {}}, "penalty": {"l2_sp": 1.0}},
        "freeze.adapter: cannot stand beside penalty: the stages' own weights do not move",
    ),
    (
        {"train": {"params": "norm"}, "adapter": {"lora": {}}},
        "freeze.adapter: needs whole stages; params and regex choose single weights",
    ),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED)
def test_what_contradicts_the_stages_or_itself_is_refused_in_one_line(fields, message):
    with pytest.raises(PolicyRefused) as refused:
        policy(**fields)
    assert str(refused.value) == message


def test_rates_are_the_formulas_of_the_docs():
    decayed = policy(train="all", layer_decay=0.5, stage_lr={"layer1": 3.0}, head={"lr_mult": 10.0})
    rates = decayed.rates(decayed.phases[0], 0.8)
    assert rates == {"stem": 0.8 / 16, "layer1": 3.0, "layer2": 0.2, "layer3": 0.4, "head": 8.0}


def test_a_phase_has_its_own_rates_or_those_of_the_section():
    phases = [
        {"unfrozen_stages": 0, "epochs": 1, "lr": 0.3},
        {"unfrozen_stages": 1, "epochs": 2, "lr_mult": 0.1, "layer_decay": 1.0},
        {"train": "all", "epochs": 3},
    ]
    found = policy(phases=phases, layer_decay=0.5)
    heads = [found.rates(phase, 2.0)["head"] for phase in found.phases]
    assert heads == [0.3, 0.2, 2.0]
    assert [phase.layer_decay for phase in found.phases] == [0.5, 1.0, 0.5]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("epochs", [2, 3, 10])
def test_a_preset_is_a_policy_that_could_have_been_written_out(preset, epochs):
    filled = policy(epochs=epochs, preset=preset)
    lengths = [phase.epochs for phase in filled.phases]
    assert lengths == [None] or sum(lengths) == epochs


def test_presets_fill_in_what_their_papers_say():
    def shape(**fields):
        return [(list(phase.stages), phase.only, phase.epochs, phase.lr_mult) for phase in policy(**fields).phases]

    everything = ("all", "")
    assert shape(preset="head_only") == [([], everything, None, 1.0)]
    assert shape(preset="freeze_stem") == [(STAGES[1:], everything, None, 1.0)]
    assert shape(preset="surgical", k=2) == [(["layer2"], everything, None, 1.0)]
    assert shape(preset="first_k", k=2) == [(["stem", "layer1"], everything, None, 1.0)]
    assert shape(preset="norm_only") == [(STAGES, ("params", "norm"), None, 1.0)]
    assert shape(preset="lp_ft", epochs=5) == [([], everything, 2, 1.0), (STAGES, everything, 3, 0.1)]
    gradual = shape(preset="gradual", epochs=5)
    assert [stages for stages, *_ in gradual] == [STAGES[4 - depth :] for depth in range(5)]
    assert [length for _, _, length, _ in gradual] == [1, 1, 1, 1, 1]
    assert [stages for stages, *_ in shape(preset="gradual", epochs=2)] == [[], STAGES]
    assert policy(preset="lora").lora.rank == 8
    assert policy(preset="lora").norm_stats == "all_frozen"
    assert policy(preset="l2_sp").l2_sp == 0.1
    assert [policy(preset=p).auto for p in ("auto_rgn", "auto_snr", "autofreeze")] == ["rgn", "snr", "autofreeze"]
