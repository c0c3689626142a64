from hypothesis import given
from hypothesis import strategies as st

from fttune.searching.attempts import FailedAttempt, in_a_row

FAILED = st.builds(FailedAttempt, cause=st.just("x"), epochs=st.integers(0, 5), together=st.booleans())


@given(st.lists(FAILED))
def test_only_failures_without_progress_count_in_a_row(failed):
    alone = [one.epochs for one in failed if not one.together]
    records = [i for i, epochs in enumerate(alone) if epochs > max([0, *alone[:i]])]
    assert in_a_row(failed) == len(alone) - max(records, default=0)
