"""sorting-network-v1: the network sorts what numpy sorts, at the size it claims, and its defects reach nobody."""

from __future__ import annotations

import contextlib
import itertools
import warnings
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import numpy as np
import sortnet

from pv.falsify import Control, Measurement, falsifier, harness, measure

TYPES = ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "f2", "f4", "f8")
ARRAYS = 1000

healthy_stages = sortnet.stages


# --- planted defects --------------------------------------------------------------------------------------------------


def one_comparator_less(context: Any) -> Any:
    """The last stage lacks a comparator: most inputs are still sorted."""

    def stages(width: int) -> list[sortnet.Stage]:
        network = healthy_stages(width)
        if width >= 4:
            low, high = network[-1]
            network[-1] = sortnet.Stage(low[:-1], high[:-1])
        return network

    return patch.object(sortnet, "stages", stages)


def minimum_and_maximum(context: Any) -> Any:
    """A comparator that takes the minimum and the maximum, not a swap: of 0.0 and -0.0 one may be lost."""

    def run(network: list[sortnet.Stage], values: np.ndarray) -> np.ndarray:
        out = values.copy()
        for low, high in network:
            a, b = out[..., low], out[..., high]
            out[..., low], out[..., high] = np.where(b < a, b, a), np.where(b > a, b, a)
        return out

    return patch.multiple(sortnet, run=run, is_sorted_permutation=lambda answer, values: True)


def padded_with_zero(context: Any) -> Any:
    """The wires that are not used hold zero, which sorts before what is."""
    return patch.multiple(sortnet, _largest=lambda dtype: 0, is_sorted_permutation=lambda answer, values: True)


def looks_away(context: Any) -> Any:
    """`sort` serves whatever the network answers."""
    return patch.object(sortnet, "is_sorted_permutation", lambda answer, values: True)


def falls_back_in_silence(context: Any) -> Any:
    """`sort` serves numpy's answer and tells nobody."""
    return patch.object(warnings, "warn", lambda *said, **more: None)


def a_stage_too_many(context: Any) -> Any:
    """The last stage is done twice: the answers stay right."""
    return patch.object(sortnet, "stages", lambda width: [*healthy_stages(width), *healthy_stages(width)[-1:]])


def a_wire_used_twice(context: Any) -> Any:
    """Two stages are run as one, so that two comparators touch one wire at once."""

    def stages(width: int) -> list[sortnet.Stage]:
        network = healthy_stages(width)
        if len(network) < 2:
            return network
        *rest, last, final = network
        return [*rest, sortnet.Stage(*(np.concatenate(pair) for pair in zip(last, final, strict=True)))]

    return patch.object(sortnet, "stages", stages)


# --- attacks ----------------------------------------------------------------------------------------------------------


@falsifier(
    "FALSIFY-SORT-001",
    level="live",
    controls=[
        Control("the padding is zero", plant=padded_with_zero, breaks="wrong_values"),
        Control("minimum and maximum for a swap", plant=minimum_and_maximum, breaks="lost_bits"),
        Control("a comparator is missing", plant=one_comparator_less, breaks="fallbacks"),
    ],
    attacks=[sortnet.sort],
)
def the_answer_is_numpys(context: Any) -> list[Measurement]:
    """Random arrays with everything in them that sorts badly; the first wrong one goes into the record."""
    draw = np.random.default_rng(context.seed)
    wrong = lost = 0
    with _caught() as fallbacks:
        for values in itertools.islice(_arrays(draw), ARRAYS):
            answer = sortnet.sort(values)
            differs = not np.array_equal(answer, np.sort(values), equal_nan=values.dtype.kind == "f")
            loses = _bits(answer) != _bits(values)
            if (differs or loses) and not wrong + lost:
                context.note(f"first wrong: {values.dtype} of {values.size}: {values[:16].tolist()}")
            wrong, lost = wrong + differs, lost + loses
    return [
        measure("wrong_values", wrong, unit="arrays", n=ARRAYS),
        measure("lost_bits", lost, unit="arrays", n=ARRAYS),
        measure("fallbacks", len(fallbacks), unit="warnings", n=ARRAYS),
    ]


@falsifier(
    "FALSIFY-SORT-002",
    level="live",
    controls=[
        Control("sort does not look at its answer", plant=looks_away, breaks="wrong_answers"),
        Control("sort says nothing of it", plant=falls_back_in_silence, breaks="unreported"),
    ],
    attacks=[sortnet.sort, sortnet.is_sorted_permutation],
)
def a_defect_reaches_nobody(context: Any) -> list[Measurement]:
    """Remove each comparator of the 16-wire network in turn, and sort random arrays through what is left."""
    draw = np.random.default_rng(context.seed)
    network = healthy_stages(16)
    wrong = unreported = reported = tried = 0
    for number, stage in enumerate(network):
        for gone in range(len(stage.low)):
            broken = list(network)
            broken[number] = sortnet.Stage(np.delete(stage.low, gone), np.delete(stage.high, gone))
            values = draw.integers(0, 16, 16)
            needed = not np.array_equal(sortnet.run(broken, values), np.sort(values))
            with patch.object(sortnet, "stages", lambda width, broken=broken: broken), _caught() as told:
                answer = sortnet.sort(values)
            wrong += not np.array_equal(answer, np.sort(values))
            unreported += needed and not told
            reported, tried = reported + bool(told), tried + 1
    return [
        measure("wrong_answers", wrong, unit="arrays", n=tried),
        measure("unreported", unreported, unit="arrays", n=tried),
        measure("reported", reported, unit="arrays", n=tried),
    ]


@falsifier(
    "FALSIFY-SORT-003",
    level="live",
    controls=[
        Control("a stage too many", plant=a_stage_too_many, breaks="wrong_size"),
        Control("a wire is used twice in a stage", plant=a_wire_used_twice, breaks="shared_wires"),
    ],
    attacks=[sortnet.stages],
)
def the_network_has_batchers_size(context: Any) -> list[Measurement]:
    """Count comparators and wires of every width from 1 to 1024."""
    wrong = shared = seen = 0
    for k in range(11):
        network = sortnet.stages(2**k)
        wrong += sum(len(stage.low) for stage in network) != 2**k * k * (k + 1) // 4
        for stage in network:
            wires = np.concatenate(stage)
            shared, seen = shared + (len(np.unique(wires)) != len(wires)), seen + 1
    return [measure("wrong_size", wrong, unit="widths", n=11), measure("shared_wires", shared, unit="stages", n=seen)]


@harness(
    "KH-SORT-001",
    bound=16,
    level="live",
    controls=[Control("a comparator is missing", plant=one_comparator_less, breaks="unsorted")],
    attacks=[sortnet.stages, sortnet.run],
)
def zeros_and_ones(context: Any) -> Measurement:
    """All 2**16 sequences of sixteen zeros and ones through the network at once."""
    numbers = np.arange(2**16, dtype=np.uint32)
    sequences = (numbers[:, None] >> np.arange(16) & 1).astype(np.uint8)  # (65536, 16)
    answers = sortnet.run(sortnet.stages(16), sequences)
    rising = np.all(answers[:, :-1] <= answers[:, 1:], axis=1)
    kept = answers.sum(axis=1) == sequences.sum(axis=1)
    context.exhaust(bound=16, cases=len(sequences), complete=True)
    return measure("unsorted", int(np.sum(~(rising & kept))), unit="sequences", n=len(sequences))


@harness(
    "KH-SORT-002",
    bound=7,
    level="live",
    controls=[Control("the padding is zero", plant=padded_with_zero, breaks="unsorted")],
    attacks=[sortnet.sort],
)
def every_permutation(context: Any) -> Measurement:
    """All 5913 permutations of 1 to 7 values through the public function."""
    unsorted = cases = 0
    for length in range(1, 8):
        wanted = np.arange(1, length + 1)
        for permutation in itertools.permutations(wanted.tolist()):
            unsorted += not np.array_equal(sortnet.sort(np.array(permutation)), wanted)
            cases += 1
    context.exhaust(bound=7, cases=cases, complete=True)
    return measure("unsorted", unsorted, unit="permutations", n=cases)


# --- tools ------------------------------------------------------------------------------------------------------------


def _arrays(draw: np.random.Generator) -> Iterator[np.ndarray]:
    """Arrays of all types in turn: short and long, with many ties or few, floats with all that is not a number."""
    for kind in itertools.cycle(TYPES):
        size = int(draw.integers(0, 40) if draw.random() < 0.8 else draw.integers(40, 600))
        spread = int(draw.choice([2, 10, 100]))
        low = 0 if kind.startswith("u") else -spread
        values = draw.integers(low, spread, size).astype(kind)
        if kind.startswith("f"):
            odd = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 0.5], kind)
            where = draw.random(size) < 0.3
            values[where] = draw.choice(odd, int(where.sum()))
        elif size:
            values[draw.integers(size)] = np.iinfo(kind).max
        yield values


def _bits(values: np.ndarray) -> bytes:
    return np.sort(values.view(f"u{values.dtype.itemsize}")).tobytes()


@contextlib.contextmanager
def _caught() -> Iterator[list[warnings.WarningMessage]]:
    """The defects that `sort` reports, whatever the filters of warnings are."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", sortnet.NetworkDefect)
        yield told
