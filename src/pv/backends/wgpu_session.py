"""Weights -> a `Session` on a Vulkan device: WGSL compute shaders, one submit or a few for each pass.

Taps are copies encoded between two dispatches of the very pass that serves tokens; with and without them the same
kernels run in the same order on the same buffers, so logits are bitwise equal. A graft gets and returns a numpy array.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from pv.backends.protocol import BackendError, DeviceFacts, Graft, Tap
from pv.backends.torch_session import check_tokens
from pv.backends.wgpu_device import BACKEND, GUARD_BITS, Device, Region, Tuning
from pv.backends.wgpu_plan import Cache, Plan
from pv.backends.wgpu_recipe import RECIPE, Op, Place, Recipe, Step
from pv.backends.wgpu_weights import upload
from pv.model.errors import ContextError
from pv.model.rope import RopeTables
from pv.model.spec import ModelSpec
from pv.model.stages import Stage
from pv.model.weights import Weights

FIRST_CAPACITY = 256  # slots; doubled as needed
STASH_BYTES = 64 << 20  # of captured tensors that wait on the device before they are handed out


class _Caught(NamedTuple):
    """A captured tensor that waits in the stash."""

    stage: Stage
    layer: int | None
    place: Place
    offset: int
    size: int


class WgpuSession:
    """One model on one Vulkan device with one KV cache; implements `pv.backends.protocol.Session`.

    `guard`: put sentinels around every buffer and into the empty cache slots (`damaged()` looks at them). `recipe`:
    what the backend is made of; anything but the default is a planted defect. Raises BackendError, ContextError.
    """

    def __init__(
        self, weights: Weights, device: Device | None = None, *, recipe: Recipe = RECIPE, guard: bool = False
    ) -> None:
        self.spec: ModelSpec = weights.spec
        self._device = device or Device()
        self.facts: DeviceFacts = self._device.facts
        self._recipe, self._guard = recipe, guard
        self.guarded = guard
        self._position = 0
        self._closed = False
        try:
            self._model = upload(self._device, recipe.weights(weights))
            if products := " ".join(self._model.products):
                self.facts = replace(self.facts, details={**self.facts.details, "products": products})
            self._cache = self._new_cache(min(FIRST_CAPACITY, self.spec.context))
            self._single = self._plan(1, self._cache.capacity)
        except BaseException:
            self.close()
            raise
        self._block: Plan | None = None

    @property
    def position(self) -> int:
        return self._position

    def prefill(self, tokens: Sequence[int], tap: Tap | None = None, graft: Graft | None = None) -> np.ndarray:
        """Append `tokens` to an empty cache; logits of the last position, float32, (V,)."""
        if self._position:
            raise ContextError(f"expected an empty cache for a prefill, got {self._position} tokens", "call reset()")
        return self._advance(tokens, tap, graft)

    def decode(self, token: int, tap: Tap | None = None, graft: Graft | None = None) -> np.ndarray:
        """Append one token; logits of its position, float32, (V,)."""
        return self._advance([token], tap, graft)

    def reset(self) -> None:
        """Empty the KV cache; its memory stays for the next prompt."""
        self._position = 0
        if self._guard and not self._closed:
            self._fill_with_sentinels(self._cache)

    def close(self) -> None:
        """Free the device's memory. Any later call raises BackendError."""
        if not self._closed:
            self._closed = True
            self._device.close()

    def damaged(self) -> list[str]:
        """Where a kernel wrote outside its tensor: names of buffers, and of cache slots that no token owns yet."""
        plans = [plan for plan in (self._single, self._block) if plan is not None]
        found = self._device.overwritten([guarded for plan in plans for guarded in plan.guarded])
        for kind, regions in (("keys", self._cache.keys), ("values", self._cache.values)):
            for layer, region in enumerate(regions):
                slots = self._device.read(region).view(np.uint32).reshape(self.spec.kv_heads, -1, self.spec.head_dim)
                written = (slots[:, self._position :] != GUARD_BITS).any(axis=(0, 2)).nonzero()[0]
                if self._guard and len(written):
                    found.append(f"slot {self._position + int(written[0])} of the {kind} of layer {layer}")
        return found

    # -- a pass -----------------------------------------------------------------------------------------------

    def _advance(self, tokens: Sequence[int], tap: Tap | None, graft: Graft | None) -> np.ndarray:
        if self._closed:
            raise BackendError(BACKEND, "the session is closed", "open the model again")
        check_tokens(self.spec, tokens, self._position)
        self._reserve(self._position + len(tokens))
        most = self._rows_at_once(self._position + len(tokens))
        if len(tokens) > most and (tap is not None or graft is not None):
            raise BackendError(BACKEND, f"a capture of {len(tokens)} tokens does not fit one pass of at most {most}")
        logits = np.empty(0, np.float32)
        for first in range(0, len(tokens), most):
            logits = self._pass(list(tokens[first : first + most]), tap, graft)
        return logits

    def _pass(self, tokens: list[int], tap: Tap | None, graft: Graft | None) -> np.ndarray:
        start, count = self._position, len(tokens)
        told = Step(count, start, start + count, start, self._cache.capacity)
        step = self._recipe.step(told)
        plan = self._plan_for(count, start + count)
        self._recipe.begin(told)
        self._device.write(plan.step, step.packed())
        self._device.write(plan.tokens, np.array(tokens, np.uint32))
        ops = plan.ops if self._recipe.keep is None else [op for op in plan.ops if self._recipe.keep(op, told)]
        if graft is not None:
            self._run_grafted(ops, step, tap, graft)
            logits = self._device.read(plan.logits)
        elif tap is not None:
            self._run_tapped(ops, step, tap)
            logits = self._device.read(plan.logits)
        else:
            logits = self._run(ops, step, plan.logits)
        self._position += count
        return self._recipe.logits(logits[: self.spec.vocab], told)

    def _run(self, ops: Sequence[Op], step: Step, result: Region) -> np.ndarray:
        """All dispatches in a few submits, so that the device works while the next ones are encoded."""
        target = self._device.readback(result.size)
        for part, last in _submits(ops, self._device.tuning):
            encoder = self._device.encoder()
            dispatch(encoder, part, step)
            if last:
                encoder.copy_buffer_to_buffer(result.buffer, result.offset, target, 0, result.size)
            self._device.submit([encoder.finish()])
        return self._device.fetch(target, result.size)

    def _run_tapped(self, ops: Sequence[Op], step: Step, tap: Tap) -> None:
        """The same dispatches; behind one whose stage is wanted, a copy of the stage into the stash."""
        encoder, full = self._device.encoder(), 0
        run: list[Op] = []
        caught: list[_Caught] = []
        for op in ops:
            run.append(op)
            wanted = [(stage, place) for stage, place in op.stages if tap.wants(stage, op.layer)]
            if not wanted:
                continue
            dispatch(encoder, run, step)
            run = []
            for stage, place in wanted:
                size = 4 * place.floats(step)
                if full + size > STASH_BYTES and caught:
                    self._device.submit([encoder.finish()])
                    self._hand_out(caught, step, tap)
                    encoder, caught, full = self._device.encoder(), [], 0
                stash = self._device.stash(max(size, STASH_BYTES))
                encoder.copy_buffer_to_buffer(place.region.buffer, place.region.offset, stash.buffer, full, size)
                caught.append(_Caught(stage, op.layer, place, full, size))
                full += size
        dispatch(encoder, run, step)
        self._device.submit([encoder.finish()])
        self._hand_out(caught, step, tap)

    def _hand_out(self, caught: Sequence[_Caught], step: Step, tap: Tap) -> None:
        if not caught:
            return
        end = caught[-1].offset + caught[-1].size
        values = self._device.read(self._device.stash(end)._replace(size=end))
        for one in caught:
            floats = values[one.offset // 4 : (one.offset + one.size) // 4]
            tap.take(one.stage, one.layer, self._seen(one.stage, one.place.view(floats, step), step))

    def _run_grafted(self, ops: Sequence[Op], step: Step, tap: Tap | None, graft: Graft) -> None:
        """The same dispatches, stopping behind every stage: graft first, then tap, as the protocol says."""
        run: list[Op] = []
        for op in ops:
            run.append(op)
            if not op.stages:
                continue
            encoder = self._device.encoder()
            dispatch(encoder, run, step)
            self._device.submit([encoder.finish()])
            run = []
            for stage, place in op.stages:
                self._graft(op, stage, place, step, tap, graft)

    def _graft(self, op: Op, stage: Stage, place: Place, step: Step, tap: Tap | None, graft: Graft) -> None:
        size = 4 * place.floats(step)
        floats = self._device.read(place.region._replace(size=size)).copy()
        view = place.view(floats, step)
        before = np.ascontiguousarray(view)
        after = graft(stage, op.layer, before)
        if after is not before:
            view[...] = np.asarray(after, np.float32).reshape(view.shape)
            self._device.write(place.region._replace(size=size), floats)
        if tap is not None and tap.wants(stage, op.layer):
            tap.take(stage, op.layer, self._seen(stage, view, step))

    def _seen(self, stage: Stage, values: np.ndarray, step: Step) -> np.ndarray:
        values = np.array(values, np.float32, order="C")
        return self._recipe.logits(values, step) if stage is Stage.LM_HEAD else values

    # -- memory -----------------------------------------------------------------------------------------------

    def _rows_at_once(self, keys: int) -> int:
        """How many tokens one pass may take: no buffer may outgrow a binding, no dimension the dispatch limit."""
        spec, room = self.spec, self._device.max_binding // 4 - 2048
        return max(1, min(room // max(2 * spec.ffn, spec.qkv_width, spec.heads * keys), self._device.max_groups))

    def _plan_for(self, rows: int, keys: int) -> Plan:
        if rows == 1:
            return self._single
        block = self._block
        if block is None or self._guard or block.rows < rows or block.rows * block.keys < rows * keys:
            self._block = block = self._plan(max(2, rows), keys)
        return block

    def _plan(self, rows: int, keys: int) -> Plan:
        return Plan(self._device, self._model, self._cache, self._recipe, rows, keys, guard=self._guard)

    def _reserve(self, length: int) -> None:
        """Room for `length` tokens: a larger cache with the old contents, and plans that point to it."""
        if length <= self._cache.capacity:
            return
        old, held = self._cache, self._position
        self._cache = new = self._new_cache(min(max(length, 2 * old.capacity), self.spec.context))
        width = 4 * self.spec.head_dim
        encoder = self._device.encoder()
        for source, target in zip(old.keys + old.values, new.keys + new.values, strict=True):
            for head in range(self.spec.kv_heads if held else 0):
                encoder.copy_buffer_to_buffer(
                    source.buffer, head * old.capacity * width, target.buffer, head * new.capacity * width, held * width
                )
        self._device.submit([encoder.finish()])
        self._block = None
        self._single = self._plan(1, new.capacity)

    def _new_cache(self, capacity: int) -> Cache:
        spec = self.spec
        tables = RopeTables.build(spec, capacity)
        cosine, sine = self._recipe.rope(tables.cos.numpy(), tables.sin.numpy())
        size = 4 * spec.kv_heads * capacity * spec.head_dim

        def regions(kind: str) -> tuple[Region, ...]:
            return tuple(self._device.allocate(f"{kind} of layer {i}", size) for i in range(spec.layers))

        cache = Cache(
            regions("keys"), regions("values"), self._table("cosine", cosine), self._table("sine", sine), capacity
        )
        if self._guard:
            self._fill_with_sentinels(cache)
        return cache

    def _table(self, name: str, values: np.ndarray) -> Region:
        region = self._device.allocate(name, values.nbytes)
        self._device.write(region, values)
        return region

    def _fill_with_sentinels(self, cache: Cache) -> None:
        for region in cache.keys + cache.values:
            self._device.write(region, np.full(region.size // 4, GUARD_BITS, np.uint32))


def open_wgpu(weights: Weights, *, recipe: Recipe = RECIPE, guard: bool = False) -> WgpuSession:
    """A session on the best Vulkan adapter, or the one that `PV_WGPU_ADAPTER` names. Raises BackendError."""
    return WgpuSession(weights, recipe=recipe, guard=guard)


def _submits(ops: Sequence[Op], tuning: Tuning) -> Iterator[tuple[Sequence[Op], bool]]:
    """The dispatches in parts of `tuning.first`, twice as many, up to `tuning.batch`; and whether one is the last."""
    at, size = 0, tuning.first
    while at < len(ops):
        yield ops[at : at + size], at + size >= len(ops)
        at, size = at + size, min(2 * size, tuning.batch)


def dispatch(encoder: Any, ops: Sequence[Op], step: Step) -> None:
    """Encode dispatches into one compute pass; wgpu puts the barriers between those that depend on each other."""
    work = encoder.begin_compute_pass()
    for op in ops:
        work.set_pipeline(op.kernel.pipeline)
        work.set_bind_group(0, op.bind_group)
        work.dispatch_workgroups(*op.groups(step))
    work.end()
