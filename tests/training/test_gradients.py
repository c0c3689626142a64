"""Recorded gradients and drift against norms computed by hand."""

import pytest
import torch

from fttune.config.freeze import Freeze
from fttune.freezing import apply_policy
from fttune.training.gradients import GradientRecord


def setting():
    torch.manual_seed(0)
    body, head = torch.nn.Linear(3, 2), torch.nn.Linear(2, 2)
    freezing = apply_policy({"body": {"0": body}, "head": {"1": head}}, Freeze(unfrozen_stages="all"))
    return body, head, freezing.members


def copies(trained):
    return {name: p.detach().clone() for members in trained.values() for name, p in members}


def test_a_record_holds_norms_over_the_steps_of_an_epoch():
    body, head, trained = setting()
    record = GradientRecord(trained, moments=True)
    draws = torch.Generator().manual_seed(1)
    seen = []
    for _ in range(4):
        for p in (*body.parameters(), *head.parameters()):
            p.grad = torch.randn(p.shape, generator=draws)
        seen.append(torch.cat([p.grad.flatten() for p in body.parameters()]).double())
        record.add()
    grads = torch.stack(seen)  # (steps, parameters of the body)
    weights = torch.cat([p.detach().flatten() for p in body.parameters()]).double()
    found = record.result(copies(trained), steps=4).gradients["body"]
    assert found.relative == pytest.approx((grads.square().sum(1).mean().sqrt() / weights.norm()).item(), rel=1e-5)
    assert found.total == pytest.approx(grads.sum(0).norm().item(), rel=1e-5)
    mean, variance = grads.mean(0), grads.var(0, correction=0)
    assert found.snr == pytest.approx((mean.square() / variance).mean().item(), rel=1e-4)


def test_drift_is_the_relative_distance_from_the_start():
    body, _, trained = setting()
    start = copies(trained)
    record = GradientRecord(trained, moments=False)
    record.add()
    assert record.result(start, steps=1).drift == {"body": 0.0, "head": 0.0}
    with torch.no_grad():
        body.weight += 1
    norm = torch.cat([start["0.weight"].flatten(), start["0.bias"]]).norm()
    assert record.result(start, steps=1).drift["body"] == pytest.approx((6**0.5 / norm).item(), rel=1e-6)
