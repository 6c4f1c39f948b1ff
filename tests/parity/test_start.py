"""From a model and a prompt to the session that serves: the order, every line of the way, the receipt, the memory."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pv.backends import registry
from pv.backends.cpu import open_cpu
from pv.backends.protocol import BackendError, DeviceFacts
from pv.backends.registry import Choice
from pv.compare.thresholds import Kind
from pv.parity import receipt as receipts
from pv.parity.gate import TAG, Verdict
from pv.parity.receipt import Receipt
from pv.parity.start import GateOptions, available_memory, reference_does_not_fit, serve, steps_from

TOKENS = [3, 141, 59, 26, 53]


@pytest.fixture
def machine(nano, altered):
    """A machine whose GPUs answer as told; what is not told is not there."""

    class Machine:
        def __init__(self) -> None:
            self.gpus: dict[str, object] = {}
            self.opened: list[str] = []
            self.said: list[str] = []

        def open(self, name, weights):
            if name == "cpu":
                self.opened.append(name)
                return open_cpu(weights)
            change = self.gpus.get(name)
            if change is None:
                raise BackendError(name, f"no {name} here", "buy one")
            if isinstance(change, BaseException):
                raise change
            self.opened.append(name)
            session = altered(nano, change, name)
            self.last = session
            return session

        def serve(self, choice=None, options=None, prompt=TOKENS, **more):
            return serve(
                nano, prompt, choice or Choice(), options, say=self.said.append, open_backend=self.open, **more
            )

        def lines(self) -> list[str]:
            assert all(line.startswith(f"[{TAG}] ") for line in self.said)
            return [line.removeprefix(f"[{TAG}] ") for line in self.said]

    return Machine()


def right(logits: np.ndarray, _: int) -> np.ndarray:
    return logits


def wrong(logits: np.ndarray, _: int) -> np.ndarray:
    return -logits


def test_a_healthy_cuda_serves(machine):
    machine.gpus = {"cuda": right, "wgpu": right}
    assert machine.serve().facts.backend == "cuda"
    lines = machine.lines()
    assert lines[0] == "Backend: CUDA (a card)"
    assert lines[1].startswith("CUDA path accepted: cosine vs CPU >= 1.000000000, max |d| 0, KL 0, 3 steps")
    assert len(lines) == 2
    assert machine.opened == ["cuda"]  # the reference is the registry's own


def test_everything_on_the_way_down_is_said_in_order(machine):
    machine.gpus = {"cuda": wrong, "wgpu": wrong}
    session = machine.serve()
    assert session.facts.backend == "cpu"
    lines = machine.lines()
    assert [line.split(" ")[0:3] for line in lines] == [
        ["Backend:", "CUDA", "(a"],
        ["CUDA", "path", "rejected,"],
        ["Backend:", "wgpu", "(Vulkan,"],
        ["wgpu", "path", "rejected,"],
        ["Backend:", "CPU"],
    ]
    assert lines[1].startswith(
        "CUDA path rejected, attempting fallback: cosine vs CPU = -1.000000 (< 0.99), CPU argmax "
    )
    assert lines[1].endswith(", at step 0/3")
    assert lines[4] == "Backend: CPU"


def test_what_is_not_there_is_said(machine):
    machine.serve()
    assert machine.lines() == ["CUDA unavailable: no cuda here", "wgpu unavailable: no wgpu here", "Backend: CPU"]


def test_whatever_opening_raises_is_unavailable(machine):
    machine.gpus = {"cuda": KeyError("half a driver"), "wgpu": RuntimeError("line one\nline two")}
    machine.serve()
    assert machine.lines()[:2] == [
        "CUDA unavailable: KeyError: 'half a driver'",
        "wgpu unavailable: RuntimeError: line one",
    ]


def test_a_rejected_session_is_closed(machine):
    machine.gpus = {"wgpu": wrong}
    machine.serve()
    assert machine.last.closed == 1


def test_require_refuses_to_fall_back(machine):
    machine.gpus = {"cuda": wrong}
    receipt = Receipt()
    with pytest.raises(BackendError, match=r"cuda: cosine vs CPU = -1.000000"):
        machine.serve(Choice(require="cuda"), receipt=receipt)
    assert machine.lines()[-1].startswith("CUDA path rejected, no fallback (--require): cosine vs CPU")
    assert [event.what for event in receipt.events] == ["backend", "rejected"]
    assert receipt.served == ""
    with pytest.raises(BackendError, match="no wgpu here"):
        machine.serve(Choice(require="wgpu"))
    assert machine.lines()[-1] == "wgpu unavailable: no wgpu here (buy one)"


def test_a_named_backend_goes_straight_to_the_cpu_when_it_fails(machine):
    machine.gpus = {"cuda": right, "wgpu": wrong}
    assert machine.serve(Choice(backend="wgpu")).facts.backend == "cpu"
    assert machine.opened == ["wgpu", "cpu"]


def test_no_gpu_says_nothing_and_opens_nothing_else(machine):
    machine.gpus = {"cuda": right, "wgpu": right}
    receipt = Receipt()
    assert machine.serve(Choice(no_gpu=True), receipt=receipt).facts.backend == "cpu"
    assert machine.said == []
    assert machine.opened == ["cpu"]
    assert receipt.served == "cpu"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


@pytest.fixture(autouse=True)
def visible_devices(monkeypatch):
    """`--no-gpu` hides them for the process; the test process gets them back."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")


def test_without_a_gate_a_gpu_serves_and_it_is_said(machine):
    machine.gpus = {"cuda": wrong}
    assert machine.serve(options=GateOptions(enabled=False)).facts.backend == "cuda"
    assert machine.lines() == ["Backend: CUDA (a card)", "CUDA path not compared with the CPU (--no-gate)"]


def test_verbose_adds_figures_and_leaves_the_decision(machine):
    machine.gpus = {"wgpu": wrong}
    plain = machine.serve().facts.backend, machine.lines()
    machine.said.clear()
    detailed = machine.serve(options=GateOptions(detail=True)).facts.backend, machine.lines()
    assert plain[0] == detailed[0]
    assert [line for line in detailed[1] if not line.startswith(" ")] == plain[1]
    assert any(line.strip().startswith("step 0: cosine -1") for line in detailed[1])


def test_a_reference_that_does_not_fit_rejects(machine, monkeypatch):
    monkeypatch.setenv("PV_HOST_MEMORY_GIB", "0.00001")
    machine.gpus = {"cuda": right}
    machine.serve()
    line = machine.lines()[1]
    assert line.startswith(
        "CUDA path rejected, attempting fallback: the CPU reference does not fit in memory: it needs"
    )
    assert line.endswith("; --no-gate serves unjudged")


def test_a_reference_that_cannot_be_opened_rejects(machine, monkeypatch):
    def broken(weights, dtype):
        raise OSError("a dead disk")

    monkeypatch.setattr("pv.backends.cpu.open_cpu", broken)
    machine.gpus = {"cuda": right}
    machine.serve()
    assert "the CPU reference cannot be opened: a dead disk" in machine.lines()[1]


def test_the_receipt_has_every_event_with_its_numbers(machine, tmp_path):
    machine.gpus = {"cuda": wrong, "wgpu": right}
    receipt = Receipt()
    machine.serve(receipt=receipt, digest=lambda: "sha256:abc")
    path = tmp_path / "receipt.json"
    receipt.write(path)
    told = json.loads(path.read_text())
    assert told["schema"] == "pv-parity-receipt/1"
    assert told["contract"] == TAG
    assert told["served"] == "wgpu"
    assert told["model"] == "sha256:abc"
    assert [event["what"] for event in told["events"]] == ["backend", "rejected", "backend", "accepted"]
    assert [event["line"] for event in told["events"]] == machine.said
    rejected = told["events"][1]["verdict"]
    assert rejected["accepted"] is False
    assert rejected["steps"][0]["cosine"] == pytest.approx(-1)
    assert rejected["subject"]["steps"] == 3
    assert rejected["subject"]["tokens"] == 5
    assert rejected["subject"]["adapter"] == "cuda cuda a card"
    assert len(rejected["subject"]["thresholds"]) == 64


def test_a_nan_stands_in_the_receipt_as_a_word(machine, tmp_path):
    machine.gpus = {"cuda": lambda logits, step: logits * np.nan}
    receipt = Receipt()
    machine.serve(receipt=receipt)
    text = json.dumps(receipt.as_json(), allow_nan=False)
    assert '"cosine": "nan"' in text


# -- a device that fails while it serves ----------------------------------------------------------------------------


def loses(alive: int):
    """Right for `alive` passes, then the device is gone; the gate's own are a prompt and two steps."""
    left = [alive]

    def change(logits: np.ndarray, _: int) -> np.ndarray:
        left[0] -= 1
        if left[0] < 0:
            raise BackendError("cuda", "the device was lost")
        return logits

    return change


def test_a_device_lost_in_the_answer_is_followed_by_the_cpu(machine, nano):
    machine.gpus = {"cuda": loses(3 + 2), "wgpu": right}
    receipt, written = Receipt(), []
    session = machine.serve(receipt=receipt, later=lambda: written.append(receipt.served))
    answers = [session.prefill(TOKENS), session.decode(5), session.decode(6), session.decode(7)]
    reference = open_cpu(nano)
    expected = [reference.prefill(TOKENS), *(reference.decode(token) for token in (5, 6, 7))]
    assert all(np.abs(ours - theirs).max() <= 1e-5 for ours, theirs in zip(answers, expected, strict=True))
    assert session.facts.backend == "cpu"
    lines = machine.lines()
    assert lines[2:] == ["CUDA path failed after 6 tokens, continuing on the CPU: the device was lost", "Backend: CPU"]
    assert [event.what for event in receipt.events] == ["backend", "accepted", "failed", "backend"]
    assert written == ["cpu"]
    assert machine.opened == ["cuda", "cpu"]  # not wgpu: nothing has vouched for it
    assert machine.last.closed == 1


@pytest.mark.parametrize("choice", [Choice(require="cuda"), Choice(backend="cuda")], ids=["require", "backend"])
def test_what_was_required_is_not_replaced(machine, choice):
    machine.gpus = {"cuda": loses(3 + 1)}
    session = machine.serve(choice)
    session.prefill(TOKENS)
    if choice.require:
        with pytest.raises(BackendError, match="cuda: the device was lost"):
            session.decode(5)
        assert session.facts.backend == "cuda"
    else:
        session.decode(5)
        assert session.facts.backend == "cpu"


# -- the memory of accepted comparisons ---------------------------------------------------------------------------


@pytest.fixture
def remembering(machine, nano, monkeypatch):
    """Starts through the registry's own opener, so that verdicts are remembered."""
    monkeypatch.setattr(registry, "open_named", machine.open)

    def start(options=None, prompt=TOKENS, digest="sha256:abc"):
        machine.said.clear()
        serve(nano, prompt, Choice(), options, say=machine.said.append, digest=lambda: digest)
        return machine.lines()

    machine.gpus = {"cuda": right}
    return start


def test_the_very_same_comparison_is_remembered_and_still_said(remembering):
    first = remembering()
    second = remembering()
    assert "remembered" not in first[1]
    assert second[1].startswith("CUDA path accepted: cosine vs CPU >= 1.000000000")
    assert ", remembered from 20" in second[1]


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": [3, 141, 59, 26, 54]},
        {"digest": "sha256:other"},
        {"options": GateOptions(steps=4)},
        {"options": GateOptions(remember=False)},
    ],
    ids=["prompt", "model", "steps", "--fresh"],
)
def test_whatever_differs_is_compared_anew(remembering, change):
    remembering()
    assert "remembered" not in remembering(**change)[1]


def test_another_engine_driver_or_table_is_compared_anew(remembering, machine, monkeypatch, altered):
    remembering()
    monkeypatch.setattr(receipts, "engine_digest", lambda: "another build")
    assert "remembered" not in remembering()[1]
    monkeypatch.setattr(receipts, "thresholds_digest", lambda kind: "another table")
    assert "remembered" not in remembering()[1]
    assert "remembered" in remembering()[1]


def test_a_rejection_is_never_remembered(remembering, machine):
    machine.gpus = {"cuda": wrong}
    assert "rejected" in remembering()[1]
    machine.gpus = {"cuda": right}
    assert "remembered" not in remembering()[1]
    machine.gpus = {"cuda": wrong}
    assert "remembered" in remembering()[1]  # the price of remembering: the very same comparison is not made again


def test_the_memory_itself_refuses_a_rejection(tmp_path, nano, altered):
    facts = altered(nano, right, "cuda").facts
    subject = receipts.Subject("sha256:abc", facts, (1, 2), 3, Kind.CUDA)
    receipts.remember(subject, Verdict(False, "wrong", (), 3, Kind.CUDA))
    assert not (tmp_path / "cache" / "parity").exists()
    receipts.remember(subject, Verdict(True, "", (), 3, Kind.CUDA))
    assert receipts.recall(subject) is not None


def test_a_forged_or_torn_memory_is_not_believed(remembering, tmp_path):
    remembering()
    (kept,) = (tmp_path / "cache" / "parity").glob("*.json")
    whole = kept.read_text()
    for text in ("", "{", '{"accepted": true}', whole.replace('"accepted": true', '"accepted": 1')):
        kept.write_text(text)
        assert "remembered" not in remembering()[1]
        kept.write_text(whole)
    assert "remembered" in remembering()[1]


def test_nothing_is_remembered_unless_asked(machine, tmp_path):
    machine.gpus = {"cuda": right}
    machine.serve(digest=lambda: "sha256:abc", options=GateOptions(remember=False))
    assert not (tmp_path / "cache" / "parity").exists()


def test_planted_defects_are_never_remembered(monkeypatch):
    from pv.cli.gate_options import Start

    seen: list[object] = []
    monkeypatch.setattr("pv.parity.start.serve", lambda *a, **k: seen.append(a[3].remember))
    model = SimpleNamespace(weights=None, digest="sha256:abc")
    for plants in ((), (("cuda", "one-nan"),)):
        Start(plants=plants).serve(model, TOKENS, Choice(), lambda line: None)
    assert seen == [True, False]


def test_half_precision_is_judged_against_the_cpu_in_half_precision(machine, nano, monkeypatch):
    """bfloat16 itself passes; four times its error does not, though the direction is right."""
    exact, half = open_cpu(nano), open_cpu(nano, dtype=torch.bfloat16)

    def at(factor: float):
        def answer(logits: np.ndarray, step: int) -> np.ndarray:
            if step:
                return logits
            exact.reset(), half.reset()
            reference = exact.prefill(TOKENS)
            return reference + np.float32(factor) * (half.prefill(TOKENS) - reference)

        return answer

    facts = DeviceFacts("cuda", "cuda", "a card", "driver 1", details={"dtype": "torch.bfloat16"})
    opened = machine.open

    def open_backend(name, weights):
        session = opened(name, weights)
        session.facts = facts if name == "cuda" else session.facts
        return session

    monkeypatch.setattr(machine, "open", open_backend)
    for factor, accepted in ((1.0, True), (2.0, True), (4.0, False)):
        machine.said.clear()
        machine.gpus = {"cuda": at(factor)}
        machine.serve(options=GateOptions(steps=1))
        assert ("accepted" in machine.lines()[1]) is accepted, machine.lines()
    assert "rel_l2 " in machine.lines()[1]
    assert "(3 times the CPU's own)" in machine.lines()[1]


def test_a_model_without_a_digest_is_never_remembered(remembering, tmp_path):
    remembering(digest="")
    assert not (tmp_path / "cache" / "parity").exists()


# -- small parts --------------------------------------------------------------------------------------------------


def test_steps_come_from_the_option_then_the_environment():
    assert steps_from({}, None) == 3
    assert steps_from({"PV_PARITY_STEPS": ""}, None) == 3
    assert steps_from({"PV_PARITY_STEPS": "7"}, None) == 7
    assert steps_from({"PV_PARITY_STEPS": "7"}, 2) == 2
    for bad in ("zero", "-1", "1.5", "²"):
        with pytest.raises(BackendError, match="expected PV_PARITY_STEPS to be a number from 1 to 16"):
            steps_from({"PV_PARITY_STEPS": bad}, None)
    for bad in ("0", "17"):
        with pytest.raises(BackendError, match="expected 1 to 16 parity steps"):
            steps_from({"PV_PARITY_STEPS": bad}, None)


def test_the_reference_needs_room_for_what_it_widens_and_fuses(nano):
    assert reference_does_not_fit(nano, available=1 << 30) == ""
    assert reference_does_not_fit(nano, available=0) == ""  # a system that does not tell
    assert "GiB are free" in reference_does_not_fit(nano, available=1000)
    spec = nano.spec
    fused = 4 * spec.layers * spec.qkv_width * spec.hidden
    assert reference_does_not_fit(nano, available=fused) == ""
    assert reference_does_not_fit(nano, available=fused - 1)


def test_available_memory_is_told_or_stated(monkeypatch):
    assert available_memory() > 1 << 20
    monkeypatch.setenv("PV_HOST_MEMORY_GIB", "2")
    assert available_memory() == 2 << 30
    monkeypatch.setenv("PV_HOST_MEMORY_GIB", "much")
    with pytest.raises(BackendError, match="expected PV_HOST_MEMORY_GIB to be a number, got 'much'"):
        available_memory()
