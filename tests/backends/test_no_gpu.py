"""`pv run --no-gpu`, looked at from inside its own process: no driver, no device, no module, no word about a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEACHER = ROOT / "fixtures" / "tiny-teacher"
OBSERVER = """
import json, os, re, sys
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
if {disguise!r}:
    import mmap
    file = open({disguise!r}, "rb")
    held = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
sys.argv = ["pv", *{arguments!r}]
from pv.cli.main import main
try:
    main()
finally:
    maps = sorted({{line.split()[-1] for line in open("/proc/self/maps") if "/" in line}})
    files = []
    for name in os.listdir("/proc/self/fd"):
        try:
            files.append(os.readlink("/proc/self/fd/" + name))
        except OSError:
            pass
    torch = sys.modules["torch"]
    told = {{
        "drivers": [m for m in maps if re.search(r"lib(cuda\\.so|nvidia|vulkan|wgpu_native|GLX_|EGL_)", m)],
        "devices": [f for f in files + opened if re.match(r"/dev/(nvidia|dri|kfd|dxg)", f)],
        "wgpu": "wgpu" in sys.modules,
        "cuda": torch.cuda.is_initialized(),
        "maps": len(maps),
    }}
    print(json.dumps(told), file=sys.stderr)
"""

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc/self/maps"),
]


def observe(*arguments: str, disguise: str = "") -> tuple[dict, str, list[str]]:
    given = ["run", str(TEACHER), "--prompt", "What is 2+2?", "--max-tokens", "12", *arguments]
    code = OBSERVER.format(arguments=given, disguise=disguise)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=240, env={**os.environ}, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    *lines, told = done.stderr.splitlines()
    return json.loads(told), done.stdout, lines


def test_no_gpu_leaves_gpus_alone_and_answers():
    told, answer, lines = observe("--no-gpu")
    assert told["maps"] > 50  # the observer really looked
    assert told["drivers"] == []
    assert told["devices"] == []
    assert not told["wgpu"]
    assert not told["cuda"]
    assert lines == []
    assert "equals 4" in answer


@pytest.mark.usefixtures("vulkan")
def test_the_observer_sees_a_gpu_backend_at_work():
    told, _, lines = observe("--backend", "wgpu")
    assert any("vulkan" in name for name in told["drivers"])
    assert told["wgpu"]
    assert any("Backend: wgpu" in line for line in lines)


def test_the_observer_sees_a_driver_that_is_mapped_anyway(tmp_path):
    library = tmp_path / "libcuda.so.1"
    library.write_bytes(b"\0" * 4096)
    told, _, _ = observe("--no-gpu", disguise=str(library))
    assert str(library) in told["drivers"]
    if not Path("/dev/nvidiactl").exists():  # where a real driver is, it comes too: the disguise is taken for it
        assert told["drivers"] == [str(library)]
