import numpy as np
import pytest
import sklearn.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fttune.training.metrics import classification_metrics


@st.composite
def predictions(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits without ties, and labels that need not hold every class."""
    samples, classes = draw(st.integers(1, 30)), draw(st.integers(2, 9))
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=samples, max_size=samples))
    order = np.random.default_rng(draw(st.integers(0, 10**6))).permuted(
        np.tile(np.arange(classes), (samples, 1)), axis=1
    )
    scale = draw(st.sampled_from([0.01, 1.0, 3.0]))
    return torch.tensor(order * scale, dtype=torch.float32), torch.tensor(labels)


@pytest.mark.filterwarnings("ignore")  # scikit-learn remarks on classes that are missing among the labels
@settings(deadline=None)
@given(predictions())
def test_metrics_equal_scikit_learns(drawn):
    logits, labels = drawn
    truth, predicted, classes = labels.numpy(), logits.argmax(1).numpy(), logits.shape[1]
    probabilities = torch.softmax(logits.double(), dim=1).numpy()
    expected = {
        "val/loss": sklearn.metrics.log_loss(truth, probabilities, labels=range(classes)),
        "val/accuracy": sklearn.metrics.accuracy_score(truth, predicted),
        "val/balanced_accuracy": sklearn.metrics.balanced_accuracy_score(truth, predicted),
        "val/macro_f1": sklearn.metrics.f1_score(truth, predicted, average="macro"),
    }
    if classes > 5:
        expected["val/top5_accuracy"] = sklearn.metrics.top_k_accuracy_score(
            truth, probabilities, k=5, labels=range(classes)
        )
    assert classification_metrics(logits, labels, prefix="val") == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("classes", [2, 5])
def test_up_to_five_classes_have_no_top_5_accuracy(classes):
    metrics = classification_metrics(torch.zeros(3, classes), torch.tensor([0, 1, 1]), prefix="x")
    assert sorted(metrics) == ["x/accuracy", "x/balanced_accuracy", "x/loss", "x/macro_f1"]


def test_a_non_finite_logit_shows_in_the_loss():
    logits = torch.tensor([[float("nan"), 0.0], [1.0, 0.0]])
    assert np.isnan(classification_metrics(logits, torch.tensor([0, 1]), prefix="val")["val/loss"])


def test_half_precision_logits_are_judged_in_single_precision():
    logits, labels = torch.tensor([[1.0, 2.0], [3.0, -1.0]]).bfloat16(), torch.tensor([1, 0])
    loss = classification_metrics(logits, labels, prefix="val")["val/loss"]
    assert loss == torch.nn.functional.cross_entropy(logits.float(), labels).item()
