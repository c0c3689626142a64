"""Classification metrics from logits; definitions as in scikit-learn, held equal to it by a test."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

TOP_K = 5


def classification_metrics(logits: Tensor, labels: Tensor, *, prefix: str) -> dict[str, float]:
    """Return loss, accuracy, balanced accuracy, macro-F1, and top-5 accuracy where there are more than 5 classes.

    Args:
        logits: (N, classes) float, any device.
        labels: (N,) int64, same device.

    The loss is plain cross-entropy: label smoothing and class weights shape training, not evaluation. Balanced
    accuracy is the mean recall over the classes among `labels`; macro-F1 averages over the classes among labels
    and predictions.
    """
    classes = logits.shape[1]
    predicted = logits.argmax(1)  # (N,)
    confusion = torch.bincount(labels * classes + predicted, minlength=classes * classes).view(classes, classes)
    confusion = confusion.cpu().double()  # rows: truth, columns: prediction; MPS has no float64
    hits, truth, guessed = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    recall = hits[truth > 0] / truth[truth > 0]
    f1 = 2 * hits / (truth + guessed)  # NaN where a class neither occurs nor is predicted
    metrics = {
        "loss": F.cross_entropy(logits if logits.dtype == torch.float64 else logits.float(), labels).item(),
        "accuracy": (hits.sum() / truth.sum()).item(),
        "balanced_accuracy": recall.mean().item(),
        "macro_f1": f1[~f1.isnan()].mean().item(),
    }
    if classes > TOP_K:
        hit = (logits.topk(TOP_K, dim=1).indices == labels[:, None]).any(1)
        metrics["top5_accuracy"] = hit.cpu().double().mean().item()
    return {f"{prefix}/{name}": value for name, value in metrics.items()}


def split_metrics(logits: Tensor, labels: Tensor, *, split: str) -> dict[str, float]:
    """Return the metrics of a split under its name; of others than val only finite ones: they may not end a run."""
    metrics = classification_metrics(logits, labels, prefix=split)
    return {name: value for name, value in metrics.items() if split == "val" or math.isfinite(value)}
