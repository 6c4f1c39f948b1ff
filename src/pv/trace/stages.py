"""Words of the command line -> stages, layers, heads, steps; and for each stage its shape, layout and file.

Legend: T new tokens, S tokens seen (T at prefill, more at a decode step), H hidden, F FFN, Hq query heads,
Hkv key-value heads, D head dimension, V vocabulary. No import of torch or numpy: the command line reads this first.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, NamedTuple

from pv.model.stages import ALIASES, FIRST_LAYER_ONLY, WHOLE_MODEL, Stage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pv.model.spec import ModelSpec

ALL = "all"
CANONICAL = {stage: place for place, stage in enumerate(Stage)}
ATTENTION_MAPS = frozenset({Stage.ATTN_SCORES, Stage.ATTN_SOFTMAX})
NEED_ATTENTION_INSIDE = (Stage.Q_POST_ROPE, Stage.K_POST_ROPE, Stage.ATTN_SCORES, Stage.ATTN_SOFTMAX)

_BY_NAME = {stage.value: stage for stage in Stage}

LAYOUTS: dict[Stage, str] = {
    stage: {
        Stage.QKV_MATMUL: "T,(Hq+2*Hkv)*D",
        Stage.QKV_BIAS: "T,(Hq+2*Hkv)*D",
        Stage.Q_POST_ROPE: "T,Hq*D",
        Stage.K_POST_ROPE: "T,Hkv*D",
        Stage.ATTN_SCORES: "Hq,T,S",
        Stage.ATTN_SOFTMAX: "Hq,T,S",
        Stage.ATTENTION: "T,Hq*D",
        Stage.FFN_GATE: "T,F",
        Stage.FFN_UP: "T,F",
        Stage.FFN_SILU: "T,F",
        Stage.FFN_SWIGL: "T,F",
        Stage.LM_HEAD: "V",
    }.get(stage, "T,H")
    for stage in Stage
}


class SelectionError(ValueError):
    """A stage, layer, head or step that does not exist, or a list that cannot be read. Says what there is."""


class StageChoice(NamedTuple):
    """What a list of stages named: the stages in canonical order, and which of them were named one by one."""

    stages: tuple[Stage, ...]
    named: frozenset[Stage]


def stage_shape(spec: ModelSpec, stage: Stage, new: int, seen: int, heads: int | None = None) -> tuple[int, ...]:
    """Shape of a stage for `new` tokens when the cache then holds `seen`; `heads`: how many are kept."""
    widths = {
        "T": new,
        "S": seen,
        "H": spec.hidden,
        "F": spec.ffn,
        "V": spec.vocab,
        "(Hq+2*Hkv)*D": spec.qkv_width,
        "Hq*D": spec.q_width,
        "Hkv*D": spec.kv_width,
        "Hq": spec.heads if heads is None else heads,
    }
    return tuple(widths[axis] for axis in LAYOUTS[stage].split(","))


def parse_stage(name: str) -> Stage:
    """The stage of a name or an alias, whatever its case. Raises SelectionError with the nearest names."""
    word = name.strip().lower()
    if word in ALIASES:
        return ALIASES[word]
    if word in _BY_NAME:
        return _BY_NAME[word]
    known = [*_BY_NAME, *ALIASES, ALL]
    near = get_close_matches(word, known, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known)}"
    raise SelectionError(f"unknown stage {name.strip()!r}: {hint}")


def parse_stages(text: str) -> StageChoice:
    """A comma-separated list of stage names, aliases and `all`, in any case and order, duplicates allowed.

    Raises SelectionError for an unknown name, and for an empty list or entry.
    """
    named: set[Stage] = set()
    everything = False
    for word in _words(text, "stage"):
        if word.lower() == ALL:
            everything = True
        else:
            named.add(parse_stage(word))
    return StageChoice(in_order(Stage if everything else named), frozenset(named))


def parse_numbers(text: str, what: str, *, least: int = 0) -> tuple[int, ...] | None:
    """`0,3-5` -> (0, 3, 4, 5), sorted, each once; `all` -> None. `what` names the numbers in errors ("layer").

    Raises SelectionError for anything else, for a range that runs backwards and for numbers below `least`.
    """
    if text.strip().lower() == ALL:
        return None
    numbers: set[int] = set()
    for word in _words(text, what):
        first, dash, last = word.partition("-")
        if not first.isascii() or not first.isdigit() or (dash and not (last.isascii() and last.isdigit())):
            raise SelectionError(f"expected a {what} list such as 0,3-5 or all, got {word!r} in {text!r}")
        start, stop = int(first), int(last) if dash else int(first)
        if stop < start:
            raise SelectionError(f"the {what} range {word!r} runs backwards; write {stop}-{start}")
        if start < least:
            raise SelectionError(f"expected {what}s from {least} on, got {start} in {text!r}")
        if stop > 0xFFFFFFFE:
            raise SelectionError(f"{what} {stop} is larger than any model's; expected a list such as 0,3-5")
        if stop - start > 1_000_000:
            raise SelectionError(f"the {what} range {word!r} is longer than any model; expected a list such as 0,3-5")
        numbers.update(range(start, stop + 1))
    return tuple(sorted(numbers))


def checked(numbers: tuple[int, ...] | None, count: int, what: str) -> tuple[int, ...]:
    """The numbers themselves, or 0 to count-1 for None. Raises SelectionError when one is not below `count`."""
    if numbers is None:
        return tuple(range(count))
    if beyond := [number for number in numbers if number >= count]:
        raise SelectionError(f"no {what} {beyond[0]}: the model has {what}s 0 to {count - 1}")
    return numbers


def in_order(stages: Iterable[Stage]) -> tuple[Stage, ...]:
    """Stages in computation order, each once."""
    return tuple(sorted(set(stages), key=CANONICAL.__getitem__))


def file_layer(stage: Stage, layer: int | None) -> int | None:
    """The layer that a file's header states: None for a whole-model stage, 0 for the embedding."""
    if stage in WHOLE_MODEL:
        return None
    return 0 if stage in FIRST_LAYER_ONLY else layer


def file_path(stage: Stage, layer: int | None, step: int | None = None) -> str:
    """Where a stage's file stands in a capture: `layer-N/STAGE.bin` or `STAGE.bin`; decode steps under `step-K/`."""
    kept = file_layer(stage, layer)
    folder = "" if kept is None else f"layer-{kept}/"
    return ("" if step is None else f"step-{step}/") + folder + f"{stage.value}.bin"


def _words(text: str, what: str) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise SelectionError(f"expected {what}s separated by commas, got an empty entry in {text!r}")
    return words
