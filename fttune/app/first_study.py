"""The first recipe and study for a folder of images: each choice from what was seen, and why. A survey in, text out.

Nothing of a given test split decides. The thresholds are rules of thumb; where a paper or a measurement stands behind
one, the comment in the file that is written says so.
"""

import json
import math
from dataclasses import dataclass

from fttune.config.data import Split
from fttune.data import Survey, imbalance
from fttune.errors import DataError

OWN_SIZE = 224  # pixels, what ImageNet weights were trained at
MULTIPLE, LEAST_SIZE = 32, 64  # a ResNet's last stage sees the image 32 times smaller
FEW_IMAGES, MANY_IMAGES = 2_000, 10_000
UPDATES, EPOCHS = 600, (5, 30)
BATCH, BATCHES = 32, 4  # and how many batches there should be at least
UNEVEN, VERY_UNEVEN = 1.5, 3.0


@dataclass(frozen=True)
class Choice:
    """A value of a recipe or study, and why."""

    value: str
    why: str


@dataclass(frozen=True)
class FirstStudy:
    """What is proposed for a folder; `train` and `val` count the images that will be there, `imbalance` is of train."""

    name: str
    path: str
    train: int
    val: int
    imbalance: float
    backbone: Choice
    image_size: Choice
    split: Choice | None
    on_bad_image: Choice | None
    epochs: Choice
    batch_size: Choice
    class_weights: Choice | None
    metric: Choice
    trials: Choice

    @property
    def experiment(self) -> str:
        """The text of the experiment's file."""
        return _experiment(self)

    @property
    def study(self) -> str:
        """The text of the study's file."""
        return _study(self)


def propose(survey: Survey, *, name: str, path: str) -> FirstStudy:
    """Return the study for what was seen; `path` is the folder as `data.path` names it.

    Raises:
        DataError: fewer than two classes, or one of them has too few readable images to train and validate.
    """
    split, why_split = _split(survey)
    parts = survey.divided(split)
    train, val = (sum(parts[part].values()) for part in ("train", "val"))
    uneven, side = imbalance(parts["train"]), _median_side(survey)
    image_size = _image_size(side)
    batch_size = _batch_size(train)
    return FirstStudy(
        name=name,
        path=path,
        train=train,
        val=val,
        imbalance=uneven,
        backbone=_backbone(train, int(image_size.value)),
        image_size=image_size,
        split=why_split,
        on_bad_image=_on_bad_image(survey),
        epochs=_epochs(train, int(batch_size.value)),
        batch_size=batch_size,
        class_weights=_class_weights(uneven),
        metric=_metric(uneven),
        trials=_trials(train),
    )


def _split(survey: Survey) -> tuple[Split, Choice | None]:
    """Return the rule, and what the file says of it: nothing where the folders decide."""
    if "val" in survey.splits:
        return Split(), None
    if survey.splits:
        return Split(test=0.0), Choice("{val: 0.2, seed: 0}", "val is drawn from train/; no folder val/ is there")
    counts = survey.counts()
    label, least = min(counts.items(), key=lambda item: item[1])
    if least < 2:
        raise DataError(
            f"class {label!r} has {least} readable images, but needs one to train on and another to validate; "
            "add images, or move the folder away"
        )
    if least == 2:
        why = f"no test split: the smallest class, {_quoted(label)}, has two images"
        return Split(test=0.0), Choice("{val: 0.2, test: 0.0, seed: 0}", why)
    if sum(counts.values()) >= MANY_IMAGES:
        why = "a tenth of so many images judges well; test stays closed until `fttune confirm`"
        return Split(val=0.1, test=0.1), Choice("{val: 0.1, test: 0.1, seed: 0}", why)
    why = "of each class; test stays closed until `fttune confirm`"
    return Split(), Choice("{val: 0.2, test: 0.2, seed: 0}", why)


def _median_side(survey: Survey) -> int:
    sizes = survey.sizes(with_test=False)
    assert sizes is not None, "every class has a readable image"
    return min(sizes.median)


def _image_size(side: int) -> Choice:
    if side >= OWN_SIZE:
        return Choice(str(OWN_SIZE), f"what the weights were trained at; half of the images have {side} pixels or more")
    chosen = min(OWN_SIZE, max(LEAST_SIZE, math.ceil(side / MULTIPLE) * MULTIPLE))
    why = f"the median shorter side is {side} px; {OWN_SIZE}, the weights' own size, costs more and often gains some"
    return Choice(str(chosen), why)


def _backbone(train: int, image_size: int) -> Choice:
    if train < FEW_IMAGES:
        return Choice(
            "resnet18", f"{train} training images: a small net overfits less, and a trial takes half the time"
        )
    if image_size < OWN_SIZE // 2:
        return Choice("resnet18", "small images: a small net is enough to begin with; then try resnet50")
    return Choice("resnet50", f"{train} training images are enough for a larger net; resnet18 is faster")


def _on_bad_image(survey: Survey) -> Choice | None:
    count = len(survey.unreadable)
    return (
        Choice("skip", f"{count} files cannot be read and are left out; repair them, then drop this") if count else None
    )


def _batch_size(train: int) -> Choice:
    """Return the largest of at most `BATCH` that leaves `BATCHES` batches, and no batch of a single image."""
    size = min(BATCH, max(2, train // BATCHES))
    while size > 2 and train % size == 1:
        size -= 1
    few = f"{math.ceil(train / size)} batches in an epoch"
    return Choice(str(size), f"{few}; torchvision's usual size" if size == BATCH else few)


def _epochs(train: int, batch_size: int) -> Choice:
    steps = math.ceil(train / batch_size)
    epochs = min(max(round(UPDATES / steps), EPOCHS[0]), EPOCHS[1])
    return Choice(str(epochs), f"{epochs * steps} updates; some hundred are enough to fine-tune")


def _class_weights(uneven: float) -> Choice | None:
    if uneven < VERY_UNEVEN:
        return None
    return Choice("balanced", f"the largest class has {uneven:.1f} times the training images of the smallest one")


def _metric(uneven: float) -> Choice:
    if uneven < UNEVEN:
        return Choice("val/accuracy", "the classes are of similar size")
    return Choice("val/balanced_accuracy", f"classes differ {uneven:.1f} times in size, and each should count the same")


def _trials(train: int) -> Choice:
    if train < MANY_IMAGES:
        return Choice("40", "two baselines, a few at random, then thirty that know of those before them")
    return Choice("24", "trials on so many images are long; the same study goes on when this is raised")


def _quoted(text: str) -> str:
    """Return text as a double-quoted scalar of YAML, which any JSON string is."""
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _line(indent: int, field: str, choice: Choice | None) -> list[str]:
    """Return a line of YAML with its reason as a comment, none for no choice."""
    if choice is None:
        return []
    left = f"{' ' * indent}{field}: {choice.value}"
    return [f"{left:<40} # {choice.why}"]


def _experiment(of: FirstStudy) -> str:
    lines = [
        f"# Fine-tune an ImageNet {of.backbone.value} on {_quoted(of.path)}.",
        f"#   fttune train experiments/{of.name}.yaml",
        f"# Written by `fttune init`: {of.train} images train, {of.val} validate. Every value may be changed.",
        "task: classification",
        "data:",
        "  source: folder",
        f"  path: {_quoted(of.path)}",
        *_line(2, "image_size", of.image_size),
        *_line(2, "split", of.split),
        *_line(2, "on_bad_image", of.on_bad_image),
        *_line(2, "augment", Choice("none", "frozen stages then run once per image; {views: 4} keeps that, too")),
        "backbone:",
        *_line(2, "name", of.backbone),
        *_line(
            2, "weights", Choice("DEFAULT", "fetched once; without a network, its error says where to put the file")
        ),
        *_line(0, "freeze", Choice("{unfrozen_stages: 1}", "the study searches it")),
        *_line(0, "optimizer", Choice("{name: sgd, lr: 0.01, momentum: 0.9}", "the study searches lr and momentum")),
        "training:",
        *_line(2, "epochs", of.epochs),
        *_line(2, "batch_size", of.batch_size),
        *_line(2, "schedule", Choice("cosine", "ends at small steps, whatever the lr")),
        *_line(2, "warmup_epochs", Choice("0.5", "the new head begins at random")),
        *_line(2, "class_weights", of.class_weights),
        "seed: 0",
    ]
    return "\n".join(lines) + "\n"


def _study(of: FirstStudy) -> str:
    lr = "{type: float, low: 1.0e-4, high: 1.0e-1, log: true}"
    lines = [
        f"# Question: how many stages of {of.backbone.value} should train on {_quoted(of.path)},",
        "#           and with which lr and momentum?",
        f"# Command:  fttune search studies/{of.name}.yaml",
        f"#           fttune validate studies/{of.name}.yaml --probe   first: what it will take",
        "# Expected: the closer the images are to ImageNet, the fewer stages and the smaller the lr that suffice",
        "#           (Li et al., ICLR 2020, arXiv 2002.11770); the first baseline is the linear probe to beat.",
        f"experiment: ../experiments/{of.name}.yaml",
        *_line(0, "metric", of.metric),
        "direction: maximize",
        *_line(0, "budget", Choice(f"{{n_trials: {of.trials.value}, max_failed: 3}}", of.trials.why)),
        *_line(0, "batch", Choice("1", "proposed one by one, knowing all before it; several workers need 8 or more")),
        "sampler: {type: tpe, seed: 0}",
        *_line(0, "pruner", Choice("{type: median, startup_trials: 5, warmup_epochs: 2}", "stops what lags behind")),
        "space:",
        f"  optimizer.lr:           {lr} # `fttune lr experiments/{of.name}.yaml` narrows it",
        "  optimizer.momentum:     {type: float, low: 0.0, high: 0.99} # high helps far from ImageNet, low near it",
        "  freeze.unfrozen_stages: {type: int, low: 0, high: 5} # from the head alone to all five stages",
        "baselines:",
        "  - {optimizer.lr: 1.0e-2, optimizer.momentum: 0.9, freeze.unfrozen_stages: 0} # the linear probe",
        "  - {optimizer.lr: 1.0e-3, optimizer.momentum: 0.9, freeze.unfrozen_stages: 5} # all of it, at a careful lr",
        *_line(
            0, "confirm", Choice("{top_k: 3, seeds: 5}", "`fttune confirm`: fresh seeds, since the best was lucky too")
        ),
    ]
    return "\n".join(lines) + "\n"
