"""What a wrong tensor looks like: each hypothesis is seen where it holds, and nothing is said where none does."""

from __future__ import annotations

import numpy as np
import pytest

from pv.compare.diagnose import Widths, concentration, diagnose

RNG = np.random.default_rng(0)
HEADS = Widths(4, 8)
RIGHT = RNG.standard_normal((6, 32)).astype(np.float32)
OTHER = RNG.standard_normal((6, 32)).astype(np.float32)
MAPS = RNG.standard_normal((4, 6, 6)).astype(np.float32)


def heads_moved(order):
    return RIGHT.reshape(6, 4, 8)[:, order].reshape(6, 32)


def rotated(angle):
    z = RIGHT.reshape(6, 4, 2, 4).astype(np.float64)
    turned = (z[:, :, 0] + 1j * z[:, :, 1]) * np.exp(1j * angle * np.arange(6)[:, None, None])
    return np.stack((turned.real, turned.imag), axis=2).reshape(6, 32).astype(np.float32)


def turned_otherwise():
    """Each head multiplied by one orthogonal matrix that mixes all of its channels."""
    matrix = np.linalg.qr(np.random.default_rng(7).standard_normal((8, 8)))[0]
    return (RIGHT.reshape(6, 4, 8).astype(np.float64) @ matrix).reshape(6, 32).astype(np.float32)


def block(columns):
    wrong = RIGHT.copy()
    wrong[:, columns] += 1
    return wrong


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (np.zeros_like(RIGHT), "all zeros"),
        (-RIGHT, "the sign is turned"),
        (OTHER, "it is ffn_up"),
        (RIGHT * np.float32(1.05), "scaled by 1.05"),
        (RIGHT + np.float32(0.5), "shifted by 0.5"),
        (RIGHT * np.linspace(1, 2, 6, dtype=np.float32)[:, None], "each position scaled by a factor of its own"),
        (RIGHT + OTHER[0], "a row is added to every position"),
        (np.roll(RIGHT, 1, axis=0), "positions moved by 1"),
        (heads_moved([2, 0, 3, 1]), "heads are in the order 2, 0, 3, 1"),
        (RIGHT.reshape(6, 4, 2, 4).swapaxes(2, 3).reshape(6, 32), "rotary halves are interleaved"),
        (RIGHT.reshape(6, 4, 4, 2).swapaxes(2, 3).reshape(6, 32), "interleaved rotary pairs are taken as halves"),
        (rotated(0.4), "rotary pairs have the right length and another angle"),
        (turned_otherwise(), "heads have the right length and another direction"),
    ],
)
def test_each_hypothesis_is_seen_where_it_holds(found, says):
    assert diagnose(found, RIGHT, heads=HEADS, siblings={"ffn_up": OTHER})[0].startswith(says)


def test_maps():
    assert diagnose(MAPS.swapaxes(1, 2).copy(), MAPS)[0] == "queries and keys are exchanged"
    assert diagnose(MAPS[[1, 0, 3, 2]], MAPS)[0] == "heads are in the order 1, 0, 3, 2"


def test_masks():
    causal = np.tril(np.ones((6, 6), np.float32)) * np.abs(MAPS)
    wide, narrow = causal.copy(), causal.copy()
    wide[:, 2, 3] = narrow[:, 2, 2] = 0
    wide[:, 2, 3] = 0.5
    assert "not zero where it should be: masked keys are looked at" in diagnose(wide, causal)
    assert "zero where it should not be: keys are not looked at" in diagnose(narrow, causal)


def test_where_it_sits():
    assert diagnose(block(slice(4, 9)), RIGHT)[-1] == "only in channels 4-8"
    late = RIGHT.copy()
    late[4:] += OTHER[4:]
    assert diagnose(late, RIGHT)[-1] == "only in tokens 4, 5"
    one = RIGHT.copy()
    one[:, 8:16] *= OTHER[:, 8:16]
    assert diagnose(one, RIGHT, heads=HEADS)[-1] == "only in head 1"
    head = MAPS.copy()
    head[2] += OTHER[:, :6]
    assert diagnose(head, MAPS) == ("only in head 2",)


def test_nothing_is_said_of_noise_or_of_no_difference():
    assert diagnose(RIGHT + 0.01 * OTHER, RIGHT, heads=HEADS) == ()
    assert diagnose(RIGHT, RIGHT.copy()) == ()


def test_what_is_not_finite_is_placed():
    odd = RIGHT.copy()
    odd[2, 3] = np.nan
    assert diagnose(odd, RIGHT) == ("1 values are not finite, the first at [2, 3]: nan",)


def test_concentration():
    wide = RNG.standard_normal((8, 320)).astype(np.float32)
    noise = RNG.standard_normal((8, 320)).astype(np.float32)
    assert concentration(wide + noise / 100, wide) < 0.4
    one_block = wide.copy()
    one_block[:, 32:64] += 1
    assert concentration(one_block, wide) > 0.9
    massive = wide.copy()
    massive[:, 7] *= 1000
    rounded = massive * (1 + np.float32(2**-9) * RNG.choice([-1, 1], massive.shape)).astype(np.float32)
    assert concentration(rounded, massive) < 0.6  # relative rounding of a massive channel is no block
    assert concentration(wide, wide) == 0.0
    massive[0, 0] = np.nan
    assert concentration(massive, wide) == 1.0
