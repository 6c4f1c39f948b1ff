"""The empty stand-in for the CUDA driver: loaded first, it is what everybody gets, and it has nothing."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from pv.backends.no_driver import MACHINES

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in MACHINES, reason="the CUDA driver is hidden on Linux only"
)


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


ASK = """
import ctypes
driver = ctypes.CDLL("libcuda.so.1")
print(hasattr(driver, "cuInit"))
print(sum("libcuda.so" in line for line in open("/proc/self/maps")))
print(sum("memfd:pv-no-driver" in line for line in open("/proc/self/maps")) > 0)
"""


def test_who_asks_for_the_driver_gets_the_empty_one():
    done = python(f"from pv.backends.no_driver import hide_cuda_driver\nassert hide_cuda_driver()\n{ASK}")
    assert done.stdout.split() == ["False", "0", "True"], done.stderr


def test_without_it_the_system_decides():
    """The negative control: the same question finds the machine's driver, or that there is none."""
    done = python(ASK)
    assert "cannot open shared object" in done.stderr or done.stdout.split()[0] == "True"


def test_it_is_loaded_once_and_torch_works_with_it():
    done = python(
        "from pv.backends.no_driver import hide_cuda_driver\n"
        "print(hide_cuda_driver(), hide_cuda_driver())\n"
        "import torch\n"
        "print((torch.ones(2, 2) @ torch.ones(2, 2)).sum().item(), torch.cuda.is_available())\n"
    )
    assert done.stdout.split() == ["True", "True", "8.0", "False"], done.stderr


def test_too_late_is_said():
    assert python("import torch\nfrom pv.backends.no_driver import *\nprint(hide_cuda_driver())").stdout == "False\n"


def test_pv_run_hides_the_driver_when_asked_and_only_then():
    for flags, hidden in ((["--no-gpu"], "True"), ([], "False")):
        done = python(
            "import sys\n"
            "import pv.backends.no_driver as module\n"
            f"sys.argv = ['pv', 'run', 'no/such/model', '--prompt', 'x', *{flags!r}]\n"
            "from pv.cli.main import main\n"
            "try:\n    main()\nexcept SystemExit:\n    pass\n"
            "print(bool(module._held))\n"
        )
        assert done.stdout.strip() == hidden, done.stderr
