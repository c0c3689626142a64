"""A fold's part of a shared array trains as an array of its own does."""

import dataclasses

import pytest
import torch

from fttune.data import Part
from fttune.training import fine_tune, plan
from fttune.training.randomness import augmentation_generator, epoch_rows


def own(part: Part, members: torch.Tensor) -> Part:
    """The members of a part as a part of their own."""
    images = part.images.reshape(part.views, -1, *part.images.shape[1:])[:, members.numpy()]
    names = tuple(part.names[index] for index in members)
    return dataclasses.replace(
        part, images=images.reshape(-1, *images.shape[2:]), labels=part.labels[members], names=names, key="own"
    )


def both(inputs, train: list[int], val: list[int]):
    """A fold of the training images, as parts of one array and as arrays of their own."""
    pool = inputs.data.train
    rows = torch.tensor(train), torch.tensor(val)
    parts = [dataclasses.replace(pool, members=members) for members in rows]
    copies = [own(pool, members) for members in rows]
    for pair in (parts, copies):
        pair[1] = dataclasses.replace(pair[1], views=1, key=f"{pair[1].key} val")
    copies[0] = dataclasses.replace(copies[0], key="own train")
    return [
        dataclasses.replace(inputs, data=dataclasses.replace(inputs.data, train=train, val=val))
        for train, val in (parts, copies)
    ]


FIELDS = [
    {},
    {"freeze__unfrozen_stages": 0},
    {"freeze__unfrozen_stages": 1, "training__class_weights": "balanced"},
    {"data__augment": "flip"},
]


@pytest.mark.parametrize("fields", FIELDS)
def test_a_member_of_a_shared_array_is_what_it_would_be_alone(fields, shared_inputs, make_recipe):
    shared, alone = both(shared_inputs(), train=[3, 4, 5, 6, 9, 10, 11, 14, 17, 21], val=[0, 1, 2, 7])
    recipe = make_recipe(training__precision="float64", **fields)
    mine, other = fine_tune(recipe, shared), fine_tune(recipe, alone.plain())
    assert mine.step_losses == pytest.approx(other.step_losses, rel=1e-9)
    assert mine.epochs[-1].metrics["val/loss"] == pytest.approx(other.epochs[-1].metrics["val/loss"], rel=1e-9)


def test_a_cohort_in_a_fold_is_what_its_members_are_alone(shared_inputs, make_recipe):
    shared, alone = both(shared_inputs(), train=[3, 4, 5, 6, 9, 10, 11, 14, 17, 21], val=[0, 1, 2, 7])
    head = {"freeze__unfrozen_stages": 0, "training__precision": "float64"}
    recipes = [make_recipe(optimizer__lr=lr, **head) for lr in (0.01, 0.1)]
    for begin, recipe in zip(plan(recipes, shared), recipes, strict=True):
        losses = [ended.metrics["val/loss"] for ended in begin().epochs()]
        expected = [ended.metrics["val/loss"] for ended in fine_tune(recipe, alone.plain()).epochs]
        assert losses == pytest.approx(expected, rel=1e-9)


def test_a_member_with_views_shows_its_own_rows_of_each():
    members, views, n = torch.tensor([1, 4, 5]), 3, 6
    part = Part(torch.zeros(views * n, 2, 2, 3).byte().numpy(), torch.arange(n), ("x",) * n, "k", views, members)
    rows = epoch_rows(part, seed=2, epoch=1)
    assert sorted((rows % n).tolist()) == [1, 4, 5]
    chosen = torch.randint(views, (3,), generator=augmentation_generator(seed=2, epoch=1))
    position = {member: index for index, member in enumerate(members.tolist())}
    assert all(row // n == chosen[position[row % n]] for row in rows.tolist())
    assert part.labels_of(rows).tolist() == (rows % n).tolist()
