"""What the user allows, as an order of backends; each one passed over is heard; no import before its turn."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pv.backends.cpu import open_cpu
from pv.backends.protocol import BackendError
from pv.backends.registry import BACKENDS, Choice, ChoiceError, RejectedError, choose
from pv.model.spec import named_shape
from pv.model.synthetic import Recipe, build

WEIGHTS = build(Recipe(named_shape("nano")))


class Fake:
    """A session that knows its backend and whether it was closed."""

    def __init__(self, name: str) -> None:
        self.name, self.closed = name, False

    def close(self) -> None:
        self.closed = True


class Ears:
    """Keeps what a listener hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    def unavailable(self, name: str, problem: BackendError, *, last: bool) -> None:
        self.heard.append(("unavailable", name, problem.reason, last))

    def opened(self, name: str, session: Any) -> None:
        self.heard.append(("opened", name))

    def rejected(self, name: str, problem: BackendError, *, last: bool) -> None:
        self.heard.append(("rejected", name, problem.reason, last))


def opens(*working: str, made: list[Fake] | None = None) -> Any:
    """An opener that fails for every other backend."""

    def open_backend(name: str, weights: Any) -> Fake:
        if name not in working:
            raise BackendError(name, "no such device")
        session = Fake(name)
        if made is not None:
            made.append(session)
        return session

    return open_backend


@pytest.mark.parametrize(
    ("choice", "order"),
    [
        (Choice(), ("cuda", "wgpu", "cpu")),
        (Choice(no_gpu=True), ("cpu",)),
        (Choice(backend="wgpu"), ("wgpu", "cpu")),
        (Choice(backend="cpu"), ("cpu",)),
        (Choice(require="wgpu"), ("wgpu",)),
        (Choice(backend="cuda", require="cuda"), ("cuda",)),
        (Choice(require="cpu", no_gpu=True), ("cpu",)),
    ],
)
def test_wishes_become_an_order(choice: Choice, order: tuple[str, ...]) -> None:
    assert choice.order == order


@pytest.mark.parametrize(
    ("wishes", "sentence"),
    [
        ({"backend": "tpu"}, "unknown backend, expected one of cuda, wgpu, cpu"),
        ({"require": "CUDA"}, "unknown backend"),
        ({"backend": "cuda", "no_gpu": True}, "asked for together with --no-gpu"),
        ({"backend": "wgpu", "require": "cuda"}, "required, but --backend wgpu was asked for"),
    ],
)
def test_wishes_that_cannot_be_met_are_refused(wishes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ChoiceError, match=sentence):
        Choice(**wishes)


def test_the_first_that_opens_and_is_accepted_serves() -> None:
    ears, judged = Ears(), []

    def gate(session: Any, weights: Any, prompt: Sequence[int]) -> None:
        judged.append((session.name, list(prompt)))

    session = choose(WEIGHTS, [1, 2], Choice(), ears, gate, opens("wgpu", "cpu"))
    assert session.name == "wgpu"
    assert judged == [("wgpu", [1, 2])]
    assert ears.heard == [("unavailable", "cuda", "no such device", False), ("opened", "wgpu")]


def test_a_rejected_backend_is_closed_and_the_next_is_tried() -> None:
    ears, made = Ears(), []

    def gate(session: Any, weights: Any, prompt: Sequence[int]) -> None:
        raise RejectedError(session.name, "cosine 0.766")

    session = choose(WEIGHTS, [1], Choice(), ears, gate, opens("cuda", "wgpu", "cpu", made=made))
    assert session.name == "cpu"
    assert [(fake.name, fake.closed) for fake in made] == [("cuda", True), ("wgpu", True), ("cpu", False)]
    assert [event[:2] for event in ears.heard] == [
        ("opened", "cuda"), ("rejected", "cuda"), ("opened", "wgpu"), ("rejected", "wgpu"), ("opened", "cpu"),
    ]  # fmt: skip


def test_a_required_backend_has_no_successor() -> None:
    ears = Ears()
    with pytest.raises(BackendError, match="cuda: no such device"):
        choose(WEIGHTS, [1], Choice(require="cuda"), ears, None, opens("wgpu", "cpu"))
    assert ears.heard == [("unavailable", "cuda", "no such device", True)]


def test_any_exception_of_a_gpu_is_a_reason_to_go_on() -> None:
    def open_backend(name: str, weights: Any) -> Any:
        if name == "cuda":
            raise RuntimeError("driver\nlong story")
        return opens("cpu")(name, weights)

    lines: list[str] = []
    session = choose(WEIGHTS, [1], Choice(backend="cuda"), lines.append, None, open_backend)
    assert session.name == "cpu"
    assert lines == ["cuda: RuntimeError: driver"]


def test_an_exception_of_the_cpu_is_a_bug_and_passes() -> None:
    def open_backend(name: str, weights: Any) -> Any:
        raise RuntimeError("shapes")

    with pytest.raises(RuntimeError, match="shapes"):
        choose(WEIGHTS, [1], Choice(no_gpu=True), Ears(), None, open_backend)


def test_ctrl_c_in_the_gate_closes_the_session() -> None:
    made: list[Fake] = []

    def gate(session: Any, weights: Any, prompt: Sequence[int]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        choose(WEIGHTS, [1], Choice(), Ears(), gate, opens("cuda", made=made))
    assert made[0].closed


def test_the_cpu_is_not_judged_against_itself() -> None:
    session = choose(WEIGHTS, [1], Choice(no_gpu=True), Ears(), lambda *_: pytest.fail("judged"))
    assert session.facts.backend == "cpu"
    assert (session.prefill([1, 2]) == open_cpu(WEIGHTS).prefill([1, 2])).all()


def test_every_entry_names_a_function_that_exists() -> None:
    """Read, not imported: the packages of a GPU need not be here."""
    source = Path(__file__).parents[2] / "src"
    for entry in BACKENDS.values():
        module, _, function = entry.target.partition(":")
        tree = ast.parse((source / (module.replace(".", "/") + ".py")).read_text())
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, entry.target


PROBE = """
import sys
from pv.backends.registry import Choice, choose
from pv.model.spec import named_shape
from pv.model.synthetic import Recipe, build
choose(build(Recipe(named_shape("nano"))), [1], Choice(no_gpu=True), print).prefill([1])
gpu = ("wgpu", "pv.backends.cuda", "pv.backends.wgpu")
print(sorted(name for name in sys.modules if name.startswith(gpu)))
"""


def test_without_a_gpu_allowed_no_gpu_backend_is_imported() -> None:
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
