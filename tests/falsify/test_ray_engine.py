"""What Ray is told and what it is asked, without a Ray: resources, cores, addresses, messages."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pv.contract.vocabulary import DeviceClass
from pv.falsify import ray_engine
from pv.falsify.cluster import merged
from pv.falsify.devices import DeviceReport
from pv.falsify.ray_engine import ClusterError, cause, connected, cores_each, needs, offered, offers


@pytest.mark.parametrize(
    ("device", "needed"),
    [
        (DeviceClass.CPU, {"num_cpus": 2}),
        (DeviceClass.CUDA, {"num_cpus": 2, "num_gpus": 1}),
        (DeviceClass.VULKAN, {"num_cpus": 2, "resources": {"vulkan": 1}}),
        (DeviceClass.VULKAN_SW, {"num_cpus": 2, "resources": {"vulkan-sw": 1}}),
        (DeviceClass.METAL, {"num_cpus": 2, "resources": {"metal": 1}}),
    ],
)
def test_a_check_holds_its_device_and_cores(device, needed):
    assert needs(device, 2) == needed


def test_a_machine_offers_what_it_counts_and_has_a_core_for():
    assert offers({"CPU": 1, "GPU": 1}, DeviceClass.CUDA)
    assert not offers({"CPU": 1}, DeviceClass.CUDA)
    assert not offers({"GPU": 4}, DeviceClass.CUDA)
    assert offers({"CPU": 8, "vulkan-sw": 8}, DeviceClass.VULKAN_SW)
    assert not offers({"CPU": 8, "vulkan-sw": 8}, DeviceClass.VULKAN)


def nodes(*cores: int) -> list[dict[str, dict[str, float]]]:
    return [{"Resources": {"CPU": float(count)} if count else {}} for count in cores]


@given(st.lists(st.integers(0, 128), min_size=1, max_size=8), st.integers(1, 64))
def test_cores_are_an_even_share_that_fits_on_every_machine_with_cores(counts, jobs):
    each = cores_each(nodes(*counts), jobs)
    assert each >= 1
    assert all(each <= count for count in counts if count)
    assert each == 1 or each * jobs <= sum(counts)


def test_cores_as_they_are_shared_out():
    assert cores_each(nodes(16, 16), 4) == 8
    assert cores_each(nodes(2), 2) == 1
    assert cores_each(nodes(0, 64), 1) == 64  # a head without cores serves nobody
    assert cores_each(nodes(4), 64) == 1


def test_the_first_machine_that_has_a_device_is_shown_else_why_not():
    cuda = DeviceClass.CUDA
    absent, present = DeviceReport(cuda, why_not="no driver"), DeviceReport(cuda, "a card", "1")
    assert merged(cuda, [absent, present]) is present
    assert merged(cuda, [absent]).why_not == "no machine of the cluster has it; one says: no driver"
    assert merged(cuda, []).why_not == "no machine of the cluster offers GPU"
    assert '--resources="$(pv env --ray)"' in merged(DeviceClass.VULKAN, []).why_not


def test_what_this_machine_offers_beyond_what_ray_finds(monkeypatch):
    here = {DeviceClass.VULKAN: "a card", DeviceClass.VULKAN_SW: "llvmpipe", DeviceClass.METAL: ""}

    def present(wanted):
        return {one: DeviceReport(one, here[one], why_not="" if here[one] else "none") for one in wanted}

    monkeypatch.setattr(ray_engine, "present", present)
    monkeypatch.setattr(ray_engine.os, "cpu_count", lambda: 6)
    assert offered() == {"vulkan": 1, "vulkan-sw": 6}


def test_the_first_line_of_an_error_is_enough():
    assert cause(ValueError("\n  the first.\nthe second")) == "the first"
    assert cause(ValueError()) == "ValueError"
    outer = RuntimeError("wrapped")
    outer.cause = KeyError("inner")
    assert cause(outer) == "'inner'"


@pytest.fixture
def ray(monkeypatch):
    """Stands for the package, which must not be started by these."""

    class Ray:
        @staticmethod
        def init(**_):
            pytest.fail("Ray was started")

    monkeypatch.setattr(ray_engine, "_ray", lambda: Ray)


@pytest.mark.parametrize("address", ["contracts/x-v1.yaml", "ray://head:10001", "head", ":6379"])
def test_what_is_no_address_is_refused_by_name(ray, address):
    expected = "expected --ray=HOST:PORT, --ray=auto or --ray=local, found --ray="
    with pytest.raises(ClusterError, match=expected), connected(address, Path("."), 1):
        pass


def test_a_silent_address_is_told_at_once(ray):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        port = taken.getsockname()[1]
        expected = rf"no Ray answers at 127.0.0.1:{port} .*`ray start --head`"
        with pytest.raises(ClusterError, match=expected), connected(f"127.0.0.1:{port}", Path("."), 1):
            pass


def test_without_the_extra_the_message_is_the_command_that_installs_it(tmp_path):
    (tmp_path / "ray.py").write_text("raise ModuleNotFoundError(\"No module named 'ray'\", name='ray')\n")
    (tmp_path / "pyproject.toml").write_text("[tool.pv]\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from pv.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "falsify", "--all", "--ray"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "--ray needs the package ray" in done.stderr
    assert "pip install 'provable-contracts-pv[ray]'" in done.stderr


def test_a_plain_run_does_not_load_ray(tmp_path):
    (tmp_path / "ray.py").write_text("raise SystemExit('ray was loaded')\n")
    (tmp_path / "pyproject.toml").write_text("[tool.pv]\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from pv.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "falsify", "--all"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 5, done.stderr
