import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fttune.config.freeze import Freeze
from fttune.errors import BadInput
from fttune.freezing import Freezing, Parts, apply_policy
from fttune.models.cifar_resnet import CifarResNet8

NORM_STATS = ["frozen", "all_frozen", "updated"]
DEPTHS = [0, 1, 2, 3, 4, "all"]
# From the output to the input, as depth counts; the prefixes of parameter names in the small net.
FROM_OUTPUT = [["fc."], ["layer3."], ["layer2."], ["layer1."], ["conv1.", "bn1."]]
NAMES = ["head", "layer3", "layer2", "layer1", "stem"]


def parts_of(net: CifarResNet8) -> Parts:
    return {
        "stem": {"conv1": net.conv1, "bn1": net.bn1, "relu": net.relu},
        "layer1": {"layer1": net.layer1},
        "layer2": {"layer2": net.layer2},
        "layer3": {"layer3": net.layer3, "avgpool": net.avgpool},
        "head": {"fc": net.fc},
    }


def net_of(seed: int = 0) -> CifarResNet8:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CifarResNet8(3)


def freeze(net: CifarResNet8, depth: int | str, norm_stats: str = "frozen") -> Freezing:
    return apply_policy(parts_of(net), Freeze.model_validate({"unfrozen_stages": depth, "norm_stats": norm_stats}))


def trained_prefixes(depth: int | str) -> tuple[str, ...]:
    count = 5 if depth == "all" else int(depth) + 1
    return tuple(prefix for group in FROM_OUTPUT[:count] for prefix in group)


def modes(net: nn.Module) -> dict[str, bool]:
    return {name: module.training for name, module in net.named_modules() if name}


def expected_modes(net: nn.Module, depth: int | str, norm_stats: str) -> dict[str, bool]:
    trained = trained_prefixes(depth)
    expected = {}
    for name, module in net.named_modules():
        training = f"{name}.".startswith(trained) if name not in ("relu", "avgpool") else None
        if isinstance(module, nn.BatchNorm2d):
            training = {"frozen": training, "all_frozen": False, "updated": True}[norm_stats]
        expected[name] = training
    return {name: training for name, training in expected.items() if name and training is not None}


def train(net: nn.Module, freezing: Freezing | None, optimizer: torch.optim.Optimizer, steps: int = 4) -> None:
    """Some real steps on random images; without a freezing, `module.train()` alone."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        net.train()
        if freezing:
            freezing.train_mode()
        images, labels = torch.randn(6, 3, 8, 8, generator=generator), torch.arange(6) % 3
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()


def optimizer_of(kind: str, net: nn.Module) -> torch.optim.Optimizer:
    if kind == "adamw":
        return torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.1)
    return torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=0.1)


def identical(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.numpy().tobytes() == b.numpy().tobytes()


@pytest.mark.parametrize("norm_stats", NORM_STATS)
@pytest.mark.parametrize("depth", DEPTHS)
def test_exactly_the_parameters_of_trained_parts_require_a_gradient(depth, norm_stats):
    net = net_of()
    freeze(net, depth, norm_stats)
    trained = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in net.named_parameters() if name.startswith(trained_prefixes(depth))}


def test_a_second_policy_unfreezes_what_the_first_one_froze():
    net = net_of()
    freeze(net, 0)
    freeze(net, "all")
    assert all(parameter.requires_grad for parameter in net.parameters())


@pytest.mark.parametrize("depth", range(5))
def test_depth_counts_parts_from_the_output(depth):
    assert freeze(net_of(), depth).trained == tuple(reversed(NAMES[: depth + 1]))


def test_all_means_every_stage():
    assert freeze(net_of(), "all").trained == freeze(net_of(), 4).trained


def test_more_stages_than_there_are_is_refused():
    with pytest.raises(BadInput, match=r"freeze.unfrozen_stages: must be 0\.\.4 \(the stages are stem, .*\), got 5"):
        freeze(net_of(), 5)


@pytest.mark.parametrize("norm_stats", NORM_STATS)
@pytest.mark.parametrize("depth", DEPTHS)
def test_modes_are_as_the_policy_says_after_every_train(depth, norm_stats):
    net = net_of()
    freezing = freeze(net, depth, norm_stats)
    expected = expected_modes(net, depth, norm_stats)
    for disturb in (nn.Module.train, nn.Module.eval, nn.Module.train):
        disturb(net)
        freezing.train_mode()
        assert {name: training for name, training in modes(net).items() if name in expected} == expected


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("norm_stats", ["frozen", "all_frozen"])
@pytest.mark.parametrize("depth", DEPTHS)
def test_frozen_parameters_and_buffers_are_byte_identical_after_training(depth, norm_stats, kind):
    net = net_of()
    before = copy.deepcopy(net.state_dict())
    train(net, freeze(net, depth, norm_stats), optimizer_of(kind, net))
    changed = {name for name, tensor in net.state_dict().items() if not identical(tensor, before[name])}
    trained = {name for name in before if name.startswith(trained_prefixes(depth))}
    if norm_stats == "all_frozen":
        trained -= {name for name in trained if "running" in name or "num_batches" in name}
    assert changed == trained


@pytest.mark.parametrize("depth", [0, 2, "all"])
def test_updated_norm_statistics_move_as_under_plain_train_and_frozen_parameters_stay(depth):
    ours, plain = net_of(), net_of()
    before = copy.deepcopy(ours.state_dict())
    train(ours, freeze(ours, depth, "updated"), optimizer_of("sgd", ours))
    for name, parameter in plain.named_parameters():
        parameter.requires_grad = name.startswith(trained_prefixes(depth))
    train(plain, None, optimizer_of("sgd", plain))
    state = ours.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in plain.state_dict().items())
    for name, tensor in state.items():
        is_statistic = "running" in name or "num_batches" in name
        assert identical(tensor, before[name]) == (not is_statistic and not name.startswith(trained_prefixes(depth)))


def test_a_frozen_module_is_not_frozen_by_requires_grad_alone():
    """Why modes are part of freezing: this is what the textbook program does."""
    net = net_of()
    before = copy.deepcopy(net.state_dict())
    for parameter in net.parameters():
        parameter.requires_grad = parameter is net.fc.weight or parameter is net.fc.bias
    train(net, None, optimizer_of("sgd", net))
    assert not identical(net.bn1.running_mean, before["bn1.running_mean"])


class WithDropout(nn.Module):
    """Two stages, each with dropout and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
        self.second = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
        self.last = nn.Linear(8, 2)

    @property
    def parts(self) -> Parts:
        return {"first": {"first": self.first}, "second": {"second": self.second}, "head": {"last": self.last}}


@pytest.mark.parametrize("norm_stats", NORM_STATS)
def test_dropout_is_off_in_frozen_parts_and_on_in_trained_ones(norm_stats):
    net = WithDropout()
    apply_policy(net.parts, Freeze(unfrozen_stages=1, norm_stats=norm_stats)).train_mode()
    ones = torch.ones(64, 8)
    assert torch.equal(net.first[2](ones), ones)
    assert not torch.equal(net.second[2](ones), ones)


@pytest.mark.parametrize(
    "norm",
    [nn.BatchNorm1d(4), nn.BatchNorm2d(4), nn.BatchNorm3d(4), nn.SyncBatchNorm(4)],
    ids=lambda n: type(n).__name__,
)
def test_every_kind_of_batch_norm_is_a_norm(norm):
    head = nn.Linear(4, 2)
    parts = {"stage": {"0": nn.Sequential(norm)}, "head": {"1": head}}
    apply_policy(parts, Freeze(norm_stats="updated")).train_mode()
    assert norm.training
    parts = {"stage": {"0": norm}, "head": {"1": head}}
    apply_policy(parts, Freeze(unfrozen_stages="all", norm_stats="all_frozen")).train_mode()
    assert not norm.training


@pytest.mark.parametrize(
    ("sizes", "depth", "summary"),
    [
        ([(2, 1), (500, 6), (1000, 2), (3, 1)], 1, "trainable 2.0k of 5.0k parameters: layer2, head"),
        ([(2, 1), (3, 1)], 0, "trainable 3 of 5 parameters: head"),
        ([(3000, 1000), (1200, 1000), (1, 2)], "all", "trainable 4.2M of 4.2M parameters: stem, layer1, head"),
    ],
)
def test_the_summary_says_how_many_parameters_train_and_where(sizes, depth, summary):
    names = (*("stem", "layer1", "layer2")[: len(sizes) - 1], "head")
    with torch.device("meta"):
        parts = {name: {name: nn.Linear(*size, bias=False)} for name, size in zip(names, sizes, strict=True)}
    assert apply_policy(parts, Freeze(unfrozen_stages=depth)).summary() == summary


def test_resnet50s_classic_recipe_trains_the_head_of_23_million():
    import torchvision

    with torch.device("meta"):
        net = torchvision.models.resnet50(num_classes=2)
    body = {name: module for name, module in net.named_children() if name != "fc"}
    freezing = apply_policy({"body": body, "head": {"fc": net.fc}}, Freeze())
    assert freezing.counts() == (2048 * 2 + 2, sum(p.numel() for p in net.parameters()))
    assert freezing.summary() == "trainable 4.1k of 23.5M parameters: head"


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 40), min_size=2, max_size=6), data=st.data())
def test_counts_are_sums_over_what_requires_a_gradient(sizes, data):
    depth = data.draw(st.integers(0, len(sizes) - 1) | st.just("all"))
    layers = [(nn.Linear(size, 2), nn.ReLU(), nn.BatchNorm1d(2)) for size in sizes[:-1]]
    parts = {f"stage{i}": {f"{i}.{j}": module for j, module in enumerate(stage)} for i, stage in enumerate(layers)}
    parts["head"] = {"head": nn.Linear(sizes[-1], 3)}
    freezing = apply_policy(parts, Freeze(unfrozen_stages=depth))
    parameters = [p for part in parts.values() for module in part.values() for p in module.parameters()]
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    assert freezing.counts() == (trained, sum(p.numel() for p in parameters))
