"""Study and experiment files that are wrong in every way that a file can be."""

import os
from pathlib import Path

from tests.hostile.places import EXPERIMENT, STUDY, recipe
from tests.hostile.running import Case
from tests.recipes import write_study

BOMB = "a: &a [x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join(['*' + a] * 8)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
VALIDATE, TRAIN, SEARCH = ("validate", EXPERIMENT), ("train", EXPERIMENT), ("search", STUDY)


def text(content: str | bytes, name: str = EXPERIMENT):
    def make(root: Path) -> None:
        (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return make


def keys(count: int) -> str:
    return "".join(f"k{index}: 1\n" for index in range(count))


def instead(make, name: str = EXPERIMENT):
    """Put something else in the place of a file."""

    def spoil(root: Path) -> None:
        (root / name).unlink()
        make(root / name)

    return spoil


def fields(**dotted):
    return lambda root: recipe(root, **dotted)


def study(**dotted):
    return lambda root: write_study(root, **dotted)


def space(**distribution):
    return study(space={"optimizer.lr": distribution})


def loop(file: Path) -> None:
    file.symlink_to(file.name)


FILES = [
    Case("alias bomb", text(BOMB), VALIDATE, ("tiny.yaml", "line 1", "anchors and aliases are not allowed", "write")),
    Case("one alias", text("a: *b"), TRAIN, ("tiny.yaml", "anchors and aliases")),
    Case("merge key", text("<<: {a: 1}"), TRAIN, ("tiny.yaml", "<<", "unknown key")),
    Case("duplicate key", text("seed: 1\nseed: 2"), VALIDATE, ("tiny.yaml", "line 2", "stands twice")),
    Case("tag that runs code", text("!!python/object/apply:os.system [touch executed]"), TRAIN, ("tags are not",)),
    Case("tag in a value", text("seed: !!int '1'"), VALIDATE, ("tags are not allowed",)),
    Case("tab", text("data:\n\tsource: digits"), VALIDATE, ("line 2", "a tab; YAML indents with spaces")),
    Case("NUL", text("seed: 1\0"), VALIDATE, ("line 1", "'\\x00' is not allowed")),
    Case("escape sequence", text("seed: \x1b[31m1"), VALIDATE, ("'\\x1b' is not allowed",)),
    Case("escaped control", text('seed: "a\\e[2Jb"'), VALIDATE, ("seed: must be a whole number, got 'a\\x1b[2Jb'",)),
    Case(
        "line feed in a path",
        fields(data={"source": "folder", "path": "a\nb"}),
        VALIDATE,
        ("data.path: must be printable text on one line, got 'a\\nb'",),
    ),
    Case("control in a key", text('"se\\x1bed": 1'), VALIDATE, ("keys must be printable", "\\x1b")),
    Case("writing direction", text("seed: \u202e1"), VALIDATE, ("seed", "must be a whole number", "\\u202e")),
    Case("line separator", text("seed: 1\u2028"), VALIDATE, ("\\u2028", "is not allowed")),
    Case("half a surrogate", text('data: {source: "\\ud800"}'), VALIDATE, ("half of a surrogate",)),
    Case("not UTF-8", text(b"seed: \xff"), TRAIN, ("must be UTF-8, byte 6 is not",)),
    Case("UTF-16", text("seed: 1".encode("utf-16")), VALIDATE, ("must be UTF-8",)),
    Case("two megabytes", text("#" * 2_000_000), TRAIN, ("larger than 1 MB",)),
    Case("nested 10,000 deep", text("[" * 10_000), VALIDATE, ("nested deeper than 32",)),
    Case("nested keys", text("{a: " * 5_000), VALIDATE, ("nested deeper than 32",)),
    Case("very long number", text("seed: " + "9" * 100_000), VALIDATE, ("more than 30 digits",)),
    Case("very long key", text("k" * 900_000 + ": 1"), VALIDATE, ("tiny.yaml",)),
    Case("very long value", text("task: " + "k" * 900_000), VALIDATE, ("task", "must be classification", "...")),
    Case("60,000 keys", text(keys(60_000)), VALIDATE, ("line 1", "a mapping of more than 1000 keys")),
    Case("900 unknown keys", text(keys(900)), VALIDATE, ("k95: unknown key", "and 804 more problems")),
    Case("empty file", text(""), TRAIN, ("tiny.yaml", "is empty")),
    Case("a list", text("[1, 2]"), TRAIN, ("must be a mapping of fields",)),
    Case("two documents", text("seed: 1\n---\nseed: 2"), VALIDATE, ("one file holds one document",)),
    Case("a directive", text("%YAML 1.1\n---\nseed: 1"), VALIDATE, ("directives such as %YAML",)),
    Case("folder in its place", instead(Path.mkdir), TRAIN, ("tiny.yaml: must be a file",)),
    Case("pipe in its place", instead(os.mkfifo), TRAIN, ("tiny.yaml: must be a file",)),
    Case("pipe as a study", instead(os.mkfifo, STUDY), SEARCH, ("tiny.yaml: must be a file",)),
    Case("pipe as its experiment", instead(os.mkfifo), SEARCH, ("experiment", "there is no file")),
    Case("device in its place", instead(lambda f: f.symlink_to("/dev/zero")), TRAIN, ("must be a file",)),
    Case("link to itself", instead(loop), TRAIN, ("tiny.yaml: cannot be read",)),
    Case("link to itself, as an experiment", instead(loop), SEARCH, ("experiment", "there is no file")),
    Case("missing file", Path.exists, ("train", "no/such.yaml"), ("no/such.yaml: cannot be read",)),
    Case("name too long", Path.exists, ("train", "x" * 5_000), ("cannot be read: File name too long",)),
    Case(
        "control in the name",
        lambda r: (r / "a\x1b[31m.yaml").write_text("seed: 1"),
        ("validate", "a\x1b[31m.yaml"),
        ("a\\x1b[31m.yaml", "the file's name must be"),
    ),
    Case(
        "line feed in the name",
        lambda r: (r / "a\nb.yaml").write_text("seed: 1"),
        ("train", "a\nb.yaml"),
        ("a\\nb.yaml: the file's name must be",),
    ),
    Case(
        "name that is not UTF-8",
        lambda r: (r / "a\udcff.yaml").write_text("seed: 1"),
        ("train", "a\udcff.yaml"),
        ("\\udcff", "name must be"),
    ),
    Case(
        "name that climbs",
        lambda r: (r / "-x.yaml").write_text("seed: 1"),
        ("train", "./-x.yaml"),
        ("the file's name must be",),
    ),
    Case(
        "experiment that climbs",
        study(experiment="../../../../../../../../../../../../../etc/hostname"),
        SEARCH,
        ("etc/hostname: must be a mapping of fields, got text",),
    ),
    Case("weights of ../../x", fields(backbone__weights="experiment:../../x"), TRAIN, ("backbone.weights", "stem")),
    Case(
        "two files of one name",
        lambda r: ((r / "experiments/deep").mkdir(), (r / "experiments/deep/tiny.yaml").write_text("")),
        TRAIN,
        ("name must be unique", "deep/tiny.yaml"),
    ),
]
VALUES = [
    Case(
        "texts for numbers",
        fields(seed="1", training__epochs="many"),
        TRAIN,
        ("training.epochs: must be a whole number, got 'many'", "seed: must be"),
    ),
    Case(
        "lists for sections",
        fields(data=[], backbone=[1], optimizer="sgd", training=None),
        TRAIN,
        ("data: must be a mapping", "backbone: must be", "optimizer: must be", "training: must be"),
    ),
    Case(
        "mappings for numbers",
        fields(seed={"a": 1}, training__batch_size=[1]),
        VALIDATE,
        ("training.batch_size: must be a whole number", "seed: must be"),
    ),
    Case("NaN", fields(optimizer__lr=float("nan")), TRAIN, ("optimizer.lr: must be a finite number, got nan",)),
    Case("infinite", fields(optimizer__lr=float("inf")), TRAIN, ("optimizer.lr: must be a finite number, got inf",)),
    Case(
        "out of range",
        fields(seed=-1, training__epochs=0, optimizer__momentum=1.0),
        TRAIN,
        ("momentum: must be < 1", "epochs: must be >= 1", "seed: must be >= 0"),
    ),
    Case("huge batch", fields(training__batch_size=10**29), TRAIN, ("batch_size: must be <= 2147483647",)),
    Case("huge image size", fields(data__image_size=10**6), TRAIN, ("data.image_size: must be <= 4096",)),
    Case(
        "folder without end",
        fields(data={"source": "folder", "path": "x" * 100_000}),
        TRAIN,
        ("data.path is", "cannot be read (File name too long)"),
    ),
    Case(
        "unknown keys",
        fields(seeed=1, data__sorce="x"),
        VALIDATE,
        ("data.sorce: unknown key; did you mean 'source'", "seeed: unknown key; did you mean 'seed'"),
    ),
    Case(
        "policy of 3,000 phases",
        fields(freeze={"phases": [{"epochs": 1, "unfrozen_stages": 0} for _ in range(3_000)]}),
        TRAIN,
        ("freeze.phases",),
    ),
    Case(
        "space of NaN",
        space(type="float", low=float("nan"), high=1.0),
        SEARCH,
        ("space.optimizer.lr.low: must be a finite number",),
    ),
    Case(
        "space to infinity", space(type="float", low=0.1, high=float("inf")), SEARCH, ("high: must be a finite number",)
    ),
    Case(
        "log scale from 0",
        space(type="float", low=0.0, high=1.0, log=True),
        SEARCH,
        ("low: must be > 0 on a log scale, got 0.0",),
    ),
    Case("crossed range", space(type="float", low=1.0, high=0.1), SEARCH, ("high: must be >= low (1.0), got 0.1",)),
    Case("step of 0", space(type="float", low=0.1, high=1.0, step=0.0), SEARCH, ("step: must be > 0",)),
    Case("no choices", space(type="categorical", choices=[]), SEARCH, ("choices",)),
    Case("choices of mappings", space(type="categorical", choices=[{"a": [1]}]), SEARCH, ("space.optimizer.lr",)),
    Case(
        "unknown distribution",
        space(type="__class__", low=0, high=1),
        SEARCH,
        ("type: must be one of float, int, categorical",),
    ),
    Case(
        "field that is none",
        study(space={"__class__.__init__": {"type": "int", "low": 0, "high": 1}}),
        SEARCH,
        ("space.__class__.__init__",),
    ),
    Case("control in a field", study(space={"a\x1bb": {"type": "int", "low": 0, "high": 1}}), SEARCH, ("\\x1b",)),
    Case("experiment as a mapping", study(experiment={"seed": 1}), SEARCH, ("experiment: must be a path",)),
    Case("experiment in itself", study(experiment="tiny.yaml"), SEARCH, ("tiny.yaml", "unknown key")),
    Case("budget of nothing", study(budget={"n_trials": 0}), SEARCH, ("budget.n_trials: must be >= 1",)),
    Case("a million trials of grid", study(sampler={"type": "grid"}), SEARCH, ("space.optimizer.lr",)),
    Case("storage that is no URL", study(storage="not a url"), SEARCH, ("storage: must be a URL such as",)),
    Case(
        "storage of an unknown kind",
        study(storage="nonsense://x"),
        SEARCH,
        ("storage: of a URL the kind must be one of sqlite", "'nonsense'"),
    ),
    Case(
        "storage on a missing driver",
        study(storage="oracle://u:secret@h/x"),
        SEARCH,
        (
            "oracle://u@h/x needs a",
            "driver",
        ),
    ),
    Case(
        "storage with a line feed",
        study(storage="sqlite:///a\nb.db"),
        SEARCH,
        ("storage: must be printable text on one line",),
    ),
    Case(
        "tracking of an unknown kind",
        study(tracking={"uri": "nonsense://x"}),
        SEARCH,
        ("tracking.uri: of a URL the kind", "'nonsense'"),
    ),
]
