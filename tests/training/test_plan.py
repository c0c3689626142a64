"""Which phase an epoch belongs to."""

from hypothesis import given
from hypothesis import strategies as st

from fttune.config.freeze import Freeze
from fttune.config.policy import resolve
from fttune.training.plan import Span, span_of

STAGES = ["stem", "layer1"]


def policy(epochs, *phases):
    return resolve(Freeze.model_validate({"phases": list(phases)}), STAGES, epochs=epochs)


def spans(plan, epochs, losses):
    found = []
    while span := span_of(plan, len(found) + 1, epochs=epochs, losses=losses[: len(found)]):
        found.append(span)
    return found


def test_a_policy_without_phases_is_one_span_to_the_end():
    plan = resolve(Freeze(), STAGES, epochs=3)
    assert spans(plan, 3, [1.0] * 3) == [Span(0, 1, 3)] * 3


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_fixed_phases_follow_each_other(lengths):
    plan = policy(sum(lengths), *({"unfrozen_stages": 0, "epochs": length} for length in lengths))
    found = spans(plan, sum(lengths), [1.0] * sum(lengths))
    assert [span.index for span in found] == [i for i, length in enumerate(lengths) for _ in range(length)]
    assert all(span.epochs == lengths[span.index] for span in found)


def test_a_phase_until_plateau_ends_after_its_patience_and_leaves_room_for_the_rest():
    patient = {"unfrozen_stages": 0, "until_plateau": {"patience_epochs": 2}}
    plan = policy(10, patient, {"unfrozen_stages": 1, "epochs": 3})
    # The best value stands in epoch 2; epochs 3 and 4 are no better.
    losses = [3.0, 2.0, 2.0, 2.5, 1.0, 1.0, 1.0]
    assert [span.index for span in spans(plan, 10, losses)] == [0, 0, 0, 0, 1, 1, 1]
    assert spans(plan, 10, losses)[4] == Span(1, 5, 7)
    # Without a plateau it takes what the rest leaves: 7 of 10 epochs.
    assert [span.index for span in spans(plan, 10, [float(-i) for i in range(10)])] == [0] * 7 + [1] * 3


def test_small_gains_below_min_delta_are_no_improvement():
    plan = policy(6, {"unfrozen_stages": 0, "until_plateau": {"min_delta": 0.5}}, {"train": "all", "epochs": 1})
    assert [span.index for span in spans(plan, 6, [2.0, 1.9, 1.8])][:3] == [0, 0, 1]


@given(st.lists(st.floats(0, 10), min_size=8, max_size=8), st.integers(1, 3))
def test_every_run_ends_within_its_epochs_and_never_goes_back(losses, patience):
    patient = {"train": "all", "until_plateau": {"patience_epochs": patience}}
    found = spans(policy(8, patient, {"unfrozen_stages": 0, "epochs": 2}, patient), 8, losses)
    indices = [span.index for span in found]
    assert indices == sorted(indices)
    assert set(indices) == {0, 1, 2}
    assert len(found) <= 8
    assert indices.count(1) == 2
