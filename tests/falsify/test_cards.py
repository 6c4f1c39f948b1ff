"""Holding a card: one holder at a time, the preferred one first, let go whatever happens."""

from __future__ import annotations

import pytest
from filelock import FileLock, Timeout

from pv.contract.vocabulary import DeviceClass
from pv.falsify.cards import Cards
from pv.falsify.devices import Card, DeviceReport

A, B = Card("0", "a", "uuid-a"), Card("1", "b", "uuid-b")


@pytest.fixture
def cards(monkeypatch, tmp_path):
    monkeypatch.setattr("pv.falsify.cards.tempfile.gettempdir", lambda: str(tmp_path))

    def cards(*these, present=True):
        why = "" if present else "no driver"
        return Cards({DeviceClass.CUDA: DeviceReport(DeviceClass.CUDA, "a", why_not=why, cards=these)})

    return cards


def free(tmp_path, name) -> bool:
    try:
        with FileLock(tmp_path / name, timeout=0):
            return True
    except Timeout:
        return False


def test_the_preferred_card_is_taken_and_no_other(cards, tmp_path):
    with cards(A, B).held(DeviceClass.CUDA, pytest.fail, prefer=B) as card:
        assert card == B
        assert not free(tmp_path, "pv-gpu-uuid-b.lock")
        assert free(tmp_path, "pv-gpu-uuid-a.lock")
    assert free(tmp_path, "pv-gpu-uuid-b.lock")


def test_a_second_holder_gets_the_other_card(cards):
    ours = cards(A, B)
    with ours.held(DeviceClass.CUDA, pytest.fail) as first, ours.held(DeviceClass.CUDA, pytest.fail) as second:
        assert (first, second) == (A, B)


def test_a_card_is_let_go_when_the_run_fails(cards, tmp_path):
    with pytest.raises(OSError, match="boom"), cards(A).held(DeviceClass.CUDA, pytest.fail):
        raise OSError("boom")
    assert free(tmp_path, "pv-gpu-uuid-a.lock")


@pytest.mark.parametrize("device", [DeviceClass.CPU, DeviceClass.VULKAN_SW])
def test_what_is_no_card_waits_for_none(cards, tmp_path, device):
    locks = FileLock(tmp_path / "pv-gpu-uuid-a.lock"), FileLock(tmp_path / "pv-gpu.lock")
    with locks[0], locks[1], cards(A).held(device, pytest.fail) as card:
        assert card is None


@pytest.mark.parametrize("device", [DeviceClass.VULKAN, DeviceClass.METAL])
def test_who_chooses_the_card_itself_holds_them_all(cards, tmp_path, device):
    with cards(A, B).held(device, pytest.fail) as card:
        assert card is None
        held = ["pv-gpu.lock", "pv-gpu-uuid-a.lock", "pv-gpu-uuid-b.lock"]
        assert [free(tmp_path, name) for name in held] == [False] * 3
    assert free(tmp_path, "pv-gpu.lock")


def test_where_cuda_is_absent_there_is_one_gpu_without_a_name(cards, tmp_path):
    with cards(present=False).held(DeviceClass.VULKAN, pytest.fail):
        assert not free(tmp_path, "pv-gpu.lock")


def test_waiting_says_so_and_ends_when_the_run_is_stopped(cards, tmp_path):
    told: list[str] = []
    with (
        FileLock(tmp_path / "pv-gpu-uuid-a.lock"),
        cards(A).held(DeviceClass.CUDA, told.append, stopped=lambda: bool(told)) as card,
    ):
        assert card == A  # untaken: who is stopped only has to get on
    assert told == ["waits for the GPU, which another pv uses"]
