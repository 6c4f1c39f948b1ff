"""APRT files: every byte as specified, every damaged file refused by name before a value is read."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pv.trace import aprt

BITS = hnp.arrays(np.uint32, st.integers(1, 200), elements=st.integers(0, 2**32 - 1))


@given(bits=BITS, layer=st.none() | st.integers(0, aprt.WHOLE_MODEL - 1))
def test_every_bit_pattern_comes_back(tmp_path_factory, bits, layer):
    path = tmp_path_factory.mktemp("aprt") / "x.bin"
    written = aprt.write_aprt(path, layer, bits.view(np.float32))
    opened = aprt.open_aprt(path)
    assert opened.layer == layer
    np.testing.assert_array_equal(opened.values.view(np.uint32), bits)
    assert written == (path, path.stat().st_size, aprt.sha256_of(path))


def test_the_bytes_are_the_specified_ones(tmp_path):
    path = tmp_path / "x.bin"
    aprt.write_aprt(path, 5, np.array([[1.0, -2.5]], np.float32))
    assert path.read_bytes() == b"APRT" + struct.pack("<II2f", 5, 2, 1.0, -2.5)
    aprt.write_aprt(path, None, np.array([0.5], np.float32))
    assert path.read_bytes() == b"APRT\xff\xff\xff\xff" + struct.pack("<If", 1, 0.5)


def test_a_strided_tensor_is_written_in_c_order(tmp_path):
    values = np.arange(12, dtype=np.float32).reshape(3, 4).T
    aprt.write_aprt(tmp_path / "x.bin", 0, values)
    np.testing.assert_array_equal(aprt.open_aprt(tmp_path / "x.bin").values, values.reshape(-1))


GOOD = b"APRT" + struct.pack("<II2f", 3, 2, 1.0, 2.0)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "truncated: expected a header of 12 bytes, found 0 bytes"),
        (GOOD[:11], "truncated: expected a header of 12 bytes, found 11 bytes"),
        (GOOD[:-1], "truncated: expected 20 bytes for the 2 elements that the header promises, found 19 bytes"),
        (GOOD + b"\0", "oversized: expected 20 bytes for the 2 elements that the header promises, found 21 bytes"),
        (b"APRX" + GOOD[4:], "expected it to start with b'APRT', found b'APRX'"),
        (b"APRT" + struct.pack("<II", 0, 0), "empty: the header promises 0 elements"),
        (b"APRT" + struct.pack("<II", 0, 0xFFFFFFFF), "truncated: expected 17179869192 bytes"),
    ],
)
def test_a_damaged_file_is_refused_by_name(tmp_path, content, says):
    path = tmp_path / "damaged.bin"
    path.write_bytes(content)
    for read in (aprt.open_aprt, aprt.read_header):
        with pytest.raises(aprt.AprtError, match=r"damaged\.bin") as refused:
            read(path)
        assert says in str(refused.value)


def test_a_lying_header_allocates_nothing(tmp_path):
    """16 GiB promised by 12 bytes: refused in a process that may not have 1 GiB more than it has."""
    path = tmp_path / "liar.bin"
    path.write_bytes(b"APRT" + struct.pack("<II", 0, 0xFFFFFFFF))
    code = (
        "import resource, sys; from pv.trace import aprt\n"
        "resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))\n"
        "try:\n    aprt.open_aprt(sys.argv[1])\nexcept aprt.AprtError as e:\n    print(e.problem)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert "truncated" in done.stdout


def test_a_pipe_and_a_folder_are_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(aprt.AprtError, match="special file"):
        aprt.open_aprt(tmp_path / "pipe")
    with pytest.raises(aprt.AprtError, match="found a folder"):
        aprt.open_aprt(tmp_path)
    assert not aprt.is_aprt(tmp_path / "pipe")
    assert not aprt.is_aprt(tmp_path / "absent")


def test_what_cannot_be_carried_is_not_written(tmp_path):
    with pytest.raises(aprt.AprtError, match="expected float32 values, got float64"):
        aprt.write_aprt(tmp_path / "x.bin", 0, np.zeros(3))  # type: ignore[arg-type]
    with pytest.raises(aprt.AprtError, match="expected 1 to 4294967295 elements, got count=0"):
        aprt.write_aprt(tmp_path / "x.bin", 0, np.zeros(0, np.float32))
    with pytest.raises(aprt.AprtError, match="got layer=4294967295"):
        aprt.write_aprt(tmp_path / "x.bin", aprt.WHOLE_MODEL, np.zeros(1, np.float32))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    """The system refuses byte 1001 (a limit on file size acts as a full disk does): the old file stays whole."""
    path = tmp_path / "x.bin"
    aprt.write_aprt(path, 0, np.ones(3, np.float32))
    before = path.read_bytes()
    code = (
        "import resource, sys; import numpy as np; from pv.trace import aprt\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n    aprt.write_aprt(sys.argv[1], 0, np.zeros(1000, np.float32))\n"
        "except OSError as e:\n    print('refused', e.strerror)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert "refused File too large" in done.stdout
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_stream_of_values_needs_little_memory(tmp_path):
    """64 MB read through `forget` raise the resident size by far less than 64 MB."""
    path = tmp_path / "big.bin"
    aprt.write_aprt(path, 0, np.ones(1 << 24, np.float32))
    code = (
        "import sys, numpy as np; from pv.trace import aprt\n"
        "peak = lambda: int([l for l in open('/proc/self/status') if 'VmRSS' in l][0].split()[1])\n"
        "t = aprt.open_aprt(sys.argv[1]); before = peak(); worst = 0; n = 1 << 18\n"
        "for i in range(0, t.values.size, n):\n"
        "    t.values[i:i+n].max(); worst = max(worst, peak() - before)\n"
        "    if len(sys.argv) < 3: t.forget(i, i+n)\n"
        "print(worst)\n"
    )
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc")

    def peak(*options: str) -> int:
        done = subprocess.run([sys.executable, "-c", code, path, *options], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert peak() < 8_000
    assert peak("keep") > 50_000  # without `forget` the probe sees the whole file
