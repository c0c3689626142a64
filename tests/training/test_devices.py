import pytest
import torch

from fttune.config.sections import Training
from fttune.errors import BadInput
from fttune.training.device import choose_device


def training(device: str = "auto", precision: str = "auto") -> Training:
    return Training.model_validate({"epochs": 1, "batch_size": 1, "device": device, "precision": precision})


@pytest.fixture
def machine(monkeypatch):
    """Pretend to be a machine with so many CUDA cards of a capability, or with MPS."""

    def pretend(cards: int = 0, capability: tuple[int, int] = (8, 0), mps: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cards > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Card")
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return pretend


@pytest.mark.parametrize(
    ("hardware", "device", "summary"),
    [
        ({"cards": 1, "mps": True}, "cuda", "cuda (Card), bf16"),
        ({"mps": True}, "mps", "mps, fp32"),
        ({}, "cpu", "cpu (1 threads), fp32"),
    ],
)
def test_auto_takes_cuda_then_mps_then_cpu_and_says_so(hardware, device, summary, machine):
    machine(**hardware)
    chosen = choose_device(training())
    assert (chosen.device, chosen.summary) == (torch.device(device), summary)


@pytest.mark.parametrize(
    ("precision", "capability", "bf16"),
    [("auto", (8, 0), True), ("auto", (7, 5), False), ("bf16", (9, 0), True), ("fp32", (9, 0), False)],
)
def test_bf16_is_on_for_cards_that_compute_it(precision, capability, bf16, machine):
    machine(cards=2, capability=capability)
    chosen = choose_device(training("cuda:1", precision))
    assert chosen.bf16 is bf16
    assert chosen.summary == f"cuda:1 (Card), {'bf16' if bf16 else 'fp32'}"


def test_bf16_on_an_older_card_is_refused_and_not_replaced_in_silence(machine):
    machine(cards=1, capability=(7, 5))
    with pytest.raises(BadInput, match=r"training\.precision: bf16 is emulated on cuda and far slower; use auto"):
        choose_device(training("cuda", "bf16"))


@pytest.mark.parametrize(("cards", "device"), [(0, "cuda"), (0, "cuda:0"), (1, "cuda:1"), (2, "cuda:9")])
def test_a_cuda_card_that_is_not_there_is_refused(cards, device, machine):
    machine(cards=cards)
    with pytest.raises(BadInput, match=f"training.device: {device} is not there; use auto, or check the CUDA driver"):
        choose_device(training(device))


def test_mps_that_is_not_there_is_refused(machine):
    machine()
    with pytest.raises(BadInput, match=r"training\.device: mps is not there; use auto"):
        choose_device(training("mps"))


@pytest.mark.parametrize(("device", "mps"), [("cpu", False), ("auto", False), ("mps", True)])
def test_bf16_without_cuda_is_refused(device, mps, machine):
    machine(mps=mps)
    with pytest.raises(BadInput, match=r"training\.precision: bf16 is emulated on (cpu|mps) and far slower"):
        choose_device(training(device, "bf16"))


def test_on_a_cpu_autocast_is_off():
    chosen = choose_device(training("cpu"))
    with chosen.autocast():
        assert (torch.zeros(2, 2) @ torch.zeros(2, 2)).dtype is torch.float32
