"""Facts about the machine: named, few, and nothing secret."""

from __future__ import annotations

import dataclasses
import platform
import re
import socket
import subprocess
import sys

from pv.falsify.environment import VARIABLES, determinism, environment, environment_beside, host


def test_the_host_is_named_without_being_told():
    assert re.fullmatch(r"[0-9a-f]{16}", host())
    assert host() == host()
    assert socket.gethostname() not in host()


def test_the_environment_says_what_a_second_run_is_compared_with(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("SECRET_TOKEN", "s3cret")
    facts = environment(device="NVIDIA H200", driver="580.1")
    assert facts.python == platform.python_version()
    assert (facts.threads, facts.device, facts.driver) == (3, "NVIDIA H200", "580.1")
    assert facts.flags["OMP_NUM_THREADS"] == "3"
    assert "s3cret" not in str(dataclasses.asdict(facts))


def test_flags_of_torch_are_told_only_where_torch_is_loaded():
    code = (
        "import sys; from pv.falsify.environment import environment; e = environment();"
        "print(e.torch != '', any('torch.' in f for f in e.flags), *(m in sys.modules for m in ('torch', 'numpy')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False", "False", "False"]


def test_a_worker_computes_the_same_numbers_twice():
    variables = determinism(2)
    assert variables["OMP_NUM_THREADS"] == variables["MKL_NUM_THREADS"] == "2"
    assert variables["OMP_WAIT_POLICY"] == "PASSIVE"
    assert variables["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert determinism(0)["OMP_NUM_THREADS"] == "1"
    assert set(VARIABLES) >= {"OMP_NUM_THREADS", "CUBLAS_WORKSPACE_CONFIG", "PYTHONHASHSEED"}


def test_of_a_worker_that_died_nobody_says_how_many_threads_it_had(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")  # this process's own, or what Ray gave its workers
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    seen = environment_beside(device="a card", driver="1.2")
    assert (seen.threads, seen.device, seen.driver) == (0, "a card", "1.2")
    assert "OMP_NUM_THREADS" not in seen.flags
    assert seen.flags["CUDA_VISIBLE_DEVICES"] == "1"
