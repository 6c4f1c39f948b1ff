"""`pv falsify --ray` on real clusters of this machine: the same records, lost workers, several cards, interrupts."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from tests.falsify.conftest import HEADER

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs ray: pip install '.[ray]'"),
]

PYPROJECT = '[tool.pv]\ncontracts = ["contracts/*.yaml"]\nfalsifiers = "falsifiers"\nevidence = "evidence"\n'
HEAD = """\
metadata:
  version: 1.0.0
  description: Claims of a test.
equations:
  one: {formula: x = x}
falsification_tests:
"""
CLAIM = """\
  - id: FALSIFY-X-{number:03}
    rule: it holds
    prediction: m is 1
    test: python
    if_fails: it does not hold
    requires: {{cells: [{{device: {device}, subject: code}}]}}
    thresholds: {{m: {{op: "==", value: 1}}}}
"""
MODULE = (
    "import os, signal, sys, time\nfrom pathlib import Path\n"
    + HEADER
    + """\
def wait_for(path, seconds=60):
    deadline = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(path)
        time.sleep(0.02)
"""
)
CHECK = """

@falsifier("FALSIFY-X-{number:03}", level="live", controls=[Control("broken", plant=broken, breaks="m")]{more})
def check_{number}(ctx):
"""
GOOD = "return measure('m', not defect)"
CARDS = """
import pv.falsify.devices as devices

cards = tuple(devices.Card(str(i), f"card {i}", f"uuid-{i}") for i in range(2))
devices._cuda = lambda device: devices.DeviceReport(device, "card", "1.0", cards=cards)
"""


def project(root: Path, *bodies: str, device: str = "cpu", more: str = "") -> Path:
    """A project of one contract with a check for each body."""
    for name in ("contracts", "falsifiers"):
        (root / name).mkdir(parents=True)
    (root / "pyproject.toml").write_text(PYPROJECT)
    claims = "".join(CLAIM.format(number=number, device=device) for number in range(len(bodies)))
    (root / "contracts/x-v1.yaml").write_text(HEAD + claims)
    checks = "".join(
        CHECK.format(number=number, more=more) + "    " + dedent(body).strip().replace("\n", "\n    ") + "\n"
        for number, body in enumerate(bodies)
    )
    (root / "falsifiers/x_v1.py").write_text(MODULE + checks)
    return root


def start(root: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "pv", "falsify", "--all", *arguments],
        cwd=root,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def falsify(root: Path, *arguments: str, **variables: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, the report as data, and what was said on stderr."""
    process = start(root, *arguments, "--output-format", "json", **variables)
    out, said = process.communicate(timeout=240)
    return process.returncode, json.loads(out) if out.strip() else {}, said


def records(root: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text())["predicate"] for path in sorted((root / "evidence").rglob("*.json"))]


def gone(pid: int, seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.1)
    return False


class Machines:
    """A cluster of nodes, each with the resources that the test gives it."""

    def __init__(self, *nodes: dict[str, Any], **variables: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "ray_cluster.py"), json.dumps(nodes)],
            env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0", **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        assert re.fullmatch(r"[\d.]+:\d+", self.address), f"no cluster: {self.address!r}"

    def remove(self, index: int) -> None:
        self._say(f"remove {index}")
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "removed\n"

    def end(self) -> None:
        self.process.communicate("end\n", timeout=60)

    def _say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()


@pytest.fixture
def machines() -> Iterator[Any]:
    made: list[Machines] = []

    def machines(*nodes: dict[str, Any], **variables: str) -> Machines:
        made.append(Machines(*nodes, **variables))
        return made[-1]

    yield machines
    for one in made:
        one.end()


@pytest.fixture(scope="module")
def pair() -> Iterator[Machines]:
    """Two machines with a core each, for the tests that leave them as they are."""
    machines = Machines({"num_cpus": 1}, {"num_cpus": 1})
    yield machines
    machines.end()


VOLATILE = {"startedOn", "durationSeconds", "runId", "tool"}  # of pv itself, which may be edited while tests run


def lasting(record: dict[str, Any]) -> dict[str, Any]:
    """A record without what differs between two runs on one machine. Its log stays in, as a digest."""
    return {key: value for key, value in record.items() if key not in VOLATILE}


VERDICTS = (
    "print('said'); ctx.note('noted'); ctx.progress(1, 2, 'rows'); " + GOOD,
    "return measure('m', not defect and 0.0 < __import__('random').Random(ctx.seed).random())",
    "return measure('m', 0.1 + 0.2)",
    "print('dies', flush=True); os.kill(os.getpid(), signal.SIGKILL)",
    "raise Blocked('a thing')",
    "raise Inconclusive('in doubt')",
    "raise ValueError('no')",
    "return measure('m', 1)",
    "time.sleep(60)",
)


def test_a_cluster_makes_the_very_records_that_this_machine_makes(tmp_path, pair):
    """Every verdict there is, with logs, notes, seeds and figures; only times and ids may differ."""
    root = tmp_path / "p"
    told, kept = [], []
    for where in ((), (f"--ray={pair.address}",)):
        project(root, *VERDICTS, more=", timeout=3")
        code, outcome, said = falsify(root, "-j", "2", "--seed", "7", *where)
        assert code == 1, said
        told.append([(cell["id"], cell["verdict"], cell["reason"]) for cell in outcome["results"]])
        kept.append(sorted((lasting(record) for record in records(root)), key=json.dumps))
        shutil.rmtree(root)
    assert told[0] == told[1]
    assert {verdict for _, verdict, _ in told[0]} == {
        "SURVIVED", "FALSIFIED", "ERROR", "BLOCKED", "INCONCLUSIVE", "VACUOUS"
    }  # fmt: skip
    assert kept[0] == kept[1]
    assert len(kept[0]) == len(VERDICTS)


LOSES = "Path(ctx.project, f'try-{time.monotonic_ns()}').touch(); os.kill(os.getppid(), signal.SIGKILL); time.sleep(60)"


def test_a_run_whose_worker_is_killed_is_made_again_once(tmp_path, pair):
    body = f"if not defect and not list(ctx.project.glob('try-*')):\n    {LOSES}\n{GOOD}"
    root = project(tmp_path / "p", body, GOOD)
    code, outcome, said = falsify(root, f"--ray={pair.address}")
    assert (code, [cell["verdict"] for cell in outcome["results"]]) == (0, ["SURVIVED", "SURVIVED"]), said
    assert len(list(root.glob("try-*"))) == 1


def test_a_run_whose_worker_is_killed_twice_is_an_error_and_the_others_go_on(tmp_path, pair):
    root = project(tmp_path / "p", LOSES, GOOD)
    code, outcome, _ = falsify(root, f"--ray={pair.address}")
    lost, good = outcome["results"]
    assert (code, lost["verdict"], good["verdict"]) == (3, "ERROR", "SURVIVED")
    assert lost["reason"].startswith("its worker was lost 2 times: ")
    assert len(list(root.glob("try-*"))) == 2


def test_a_machine_that_goes_away_loses_no_check(tmp_path, machines):
    """Each of two checks runs on a machine of its own; one machine goes; its check is made again on the other."""
    cluster = machines({"num_cpus": 1}, {"num_cpus": 1})
    body = """
    if not defect:
        Path(ctx.project, f"on-{os.environ['RAY_RAYLET_PID']}-{os.getpid()}").touch()
        wait_for(ctx.project / "go-on")
    return measure('m', not defect)
    """
    root = project(tmp_path / "p", body, body)
    process = start(root, f"--ray={cluster.address}", "-j", "2", "--output-format", "json")
    deadline = time.monotonic() + 60
    while len(list(root.glob("on-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len({path.name.split("-")[1] for path in root.glob("on-*")}) == 2
    workers = [int(path.name.split("-")[2]) for path in root.glob("on-*")]
    cluster.remove(1)
    while not any(gone(pid, 0.1) for pid in workers):
        assert time.monotonic() < deadline, "the machine is gone, its worker is not"
    (root / "go-on").touch()
    out, said = process.communicate(timeout=200)
    assert [cell["verdict"] for cell in json.loads(out)["results"]] == ["SURVIVED", "SURVIVED"], said
    assert len(list(root.glob("on-*"))) == 3


def test_every_card_serves_one_check_at_a_time_and_records_name_it(tmp_path, machines):
    """Two cards that Ray counts; a fake driver tells of them. Four checks meet in pairs, never on one card."""
    fake = tmp_path / "fake"
    fake.mkdir()
    (fake / "sitecustomize.py").write_text(CARDS)
    cluster = machines(
        {"num_cpus": 4, "num_gpus": 2},
        PYTHONPATH=os.pathsep.join(filter(None, (str(fake), os.environ.get("PYTHONPATH")))),
    )
    body = """
    card = os.environ["CUDA_VISIBLE_DEVICES"]
    mine = ctx.project / f"on-{card}-{os.getpid()}"
    mine.touch()
    if len(list(ctx.project.glob("on-*"))) > 1:
        (ctx.project / "met").touch()
    wait_for(ctx.project / "met")
    time.sleep(0.3)
    alone = len(list(ctx.project.glob(f"on-{card}-*"))) == 1
    mine.unlink()
    return measure('m', not defect and alone)
    """
    root = project(tmp_path / "p", *[body] * 4, device="cuda")
    code, outcome, said = falsify(root, f"--ray={cluster.address}", "-j", "4")
    assert (code, [cell["verdict"] for cell in outcome["results"]]) == (0, ["SURVIVED"] * 4), said
    seen = {record["environment"]["flags"]["CUDA_VISIBLE_DEVICES"] for record in records(root)}
    assert seen == {"0", "1"}


def test_a_device_that_no_machine_offers_is_blocked_with_what_to_do(tmp_path, pair):
    root = project(tmp_path / "p", GOOD, device="vulkan")
    code, outcome, _ = falsify(root, f"--ray={pair.address}")
    assert (code, outcome["results"][0]["verdict"]) == (4, "BLOCKED")
    assert 'start Ray there with --resources="$(pv env --ray)"' in outcome["results"][0]["reason"]


def test_a_project_is_sent_along_with_the_pv_that_asks(tmp_path, pair):
    body = "print('at', ctx.project, __import__('pv').__file__); (ctx.project / 'mark').touch(); " + GOOD
    root = project(tmp_path / "p", body)
    code, outcome, said = falsify(root, f"--ray={pair.address}", "--ray-ship")
    assert (code, outcome["results"][0]["verdict"]) == (0, "SURVIVED"), said
    assert not (root / "mark").exists()


def test_ctrl_c_keeps_what_was_finished_and_leaves_no_process(tmp_path):
    root = project(
        tmp_path / "p", GOOD, "(ctx.project / 'pids').write_text(f'{os.getpid()} {os.getppid()}'); time.sleep(600)"
    )
    process = start(root, "--ray=local")
    deadline = time.monotonic() + 90
    while not (root / "pids").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "go on with `pv falsify --resume" in said
    assert all(gone(int(pid)) for pid in (root / "pids").read_text().split())
    assert [record["claim"]["id"] for record in records(root)] == ["FALSIFY-X-000"]


def test_a_killed_driver_leaves_no_process_and_its_run_can_be_resumed(tmp_path, pair):
    body = f"""
    (ctx.project / "pid").write_text(str(os.getpid()))
    time.sleep(0 if (ctx.project / "quick").exists() else 600)
    {GOOD}
    """
    root = project(tmp_path / "p", GOOD, body)
    process = start(root, f"--ray={pair.address}")
    deadline = time.monotonic() + 90
    while not (root / "pid").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    journal = next((root / ".pv_cache/runs").glob("*.jsonl"))
    while "FALSIFY-X-000" not in journal.read_text().partition("\n")[2] and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.communicate()
    assert gone(int((root / "pid").read_text()), 60)
    (root / "quick").touch()
    done = subprocess.run(
        [sys.executable, "-m", "pv", "falsify", "--resume", f"--ray={pair.address}", "--output-format", "json"],
        cwd=root, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert [cell["id"] for cell in json.loads(done.stdout)["results"]] == ["FALSIFY-X-001"], done.stderr


def test_where_no_cluster_answers_the_message_says_what_to_do(tmp_path):
    root = project(tmp_path / "p", GOOD)
    code, _, said = falsify(root, "--ray=127.0.0.1:1")
    assert code == 2
    assert "no Ray answers at 127.0.0.1:1" in said
    assert "`ray start --head`" in said
