"""The cache of teacher logits: equal bytes, resumable, and refused unless it is whole and one's own."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pv.distill import precompute as module
from pv.distill.cache import CacheError, LogitsCache, _top_indices, encode_full, encode_top
from pv.distill.config import ConfigError
from pv.distill.corpus import prepare
from pv.distill.loss import FullRows, TopRows, divergence
from pv.distill.precompute import expected_fields, precompute, teacher_sha256
from pv.distill.student import load_student


def with_(config, **changes):
    return config.model_copy(update=changes)


def cached(config, **changes):
    return with_(config, cache=config.cache.model_copy(update=changes))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def open_cache(config, data, folder=None):
    fields = expected_fields(config, data, teacher_sha256(config.teacher))
    return LogitsCache(folder or config.output_dir / "teacher_logits", fields)


@pytest.mark.parametrize("kind", ["full", "top"])
def test_two_precomputes_are_equal_in_every_byte(config, tmp_path, kind):
    config = cached(config, kind=kind, k=8)
    data = prepare(config)
    first = contents(precompute(config, data))
    second = contents(precompute(with_(config, output_dir=tmp_path / "again"), data))
    assert len(first) == 4  # three shards and the manifest
    assert first == second


def test_the_rows_are_the_teachers_own(config):
    data = prepare(config)
    precompute(config, data)
    rows = open_cache(config, data).rows([5, 17])
    teacher = load_student(config.teacher, "float32")
    with torch.no_grad():
        exact = teacher.logits(torch.from_numpy(data.part("student")[[5, 17], :-1]).long()).flatten(0, 1)
    assert isinstance(rows, FullRows)
    assert divergence(rows, exact, 1.0).max() < 1e-5
    assert divergence(rows, exact.roll(1, 0), 1.0).max() > 1e-2  # rows of neighbouring positions are told apart


def test_top_rows_hold_true_probabilities(config):
    config = cached(with_(config, temperature=2.0), kind="top", k=12)
    data = prepare(config)
    precompute(config, data)
    rows = open_cache(config, data).rows([3])
    teacher = load_student(config.teacher, "float32")
    with torch.no_grad():
        exact = teacher.logits(torch.from_numpy(data.part("student")[[3], :-1]).long()).flatten(0, 1)
    assert isinstance(rows, TopRows)
    want = torch.softmax(exact / 2.0, -1).gather(-1, rows.indices)
    got = (rows.logits.float() / 2.0 - rows.lse[:, None]).exp()
    torch.testing.assert_close(got, want, rtol=2e-3, atol=1e-5)
    assert divergence(rows, exact, 2.0).abs().max() < 1e-4


@given(st.integers(0, 100), st.integers(1, 20))
@settings(max_examples=40, deadline=None)
def test_the_largest_come_first_and_ties_by_the_smaller_index(seed, k):
    values = torch.randint(-4, 4, (5, 40), generator=torch.Generator().manual_seed(seed)).float()
    want = torch.sort(values, dim=-1, descending=True, stable=True).indices[:, :k]
    assert torch.equal(_top_indices(values, k), want)


def test_storage_keeps_the_distribution():
    logits = torch.randn(4, 3, 500, generator=torch.Generator().manual_seed(0)) * 6 + 300  # far from zero on purpose
    stored = encode_full(logits)["logits"].flatten(0, 1)
    assert divergence(FullRows(stored), logits.flatten(0, 1), 1.0).mean() < 1e-5
    raw = FullRows(logits.half().flatten(0, 1))  # what the shift by the row maximum is for
    assert divergence(raw, logits.flatten(0, 1), 1.0).mean() > 1e-4


def test_wide_vocabularies_get_wide_indices():
    logits = torch.zeros(1, 1, 40_000)
    logits[0, 0, 39_999] = 5.0
    encoded = encode_top(logits, torch.zeros(1, 1, dtype=torch.long), 1, 1.0)
    assert encoded["indices"].item() == 39_999


def test_a_stopped_precompute_goes_on_and_ends_in_the_same_bytes(config, tmp_path, monkeypatch):
    data = prepare(config)
    want = contents(precompute(with_(config, output_dir=tmp_path / "straight"), data))
    healthy = module._write_shard

    def write(folder, index, *rest):
        if index == 2:
            raise OSError(28, "No space left on device")
        return healthy(folder, index, *rest)

    monkeypatch.setattr(module, "_write_shard", write)
    with pytest.raises(OSError, match="No space"):
        precompute(config, data)
    with pytest.raises(CacheError, match="not complete"):
        open_cache(config, data)
    calls = []
    monkeypatch.setattr(module, "_write_shard", lambda f, i, *r: calls.append(i) or healthy(f, i, *r))
    assert contents(precompute(config, data)) == want
    assert calls == [2]


def spoil_bytes(folder):
    file = folder / "shard-00001.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def spoil_manifest(change):
    def spoil(folder):
        manifest = json.loads((folder / "manifest.json").read_text())
        change(manifest)
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: shutil.rmtree(folder), "no teacher logits here"),
        (spoil_bytes, "its sha256 is not the manifest's"),
        (lambda folder: (folder / "shard-00002.safetensors").unlink(), "is missing"),
        (lambda folder: (folder / "shard-00000.safetensors").write_bytes(b""), "expected .* bytes, found 0"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "expected a manifest"),
        (spoil_manifest(lambda m: m.update(complete=False)), "not complete"),
        (spoil_manifest(lambda m: m["shards"].pop()), "expected 24 rows, the shards hold 16"),
        (spoil_manifest(lambda m: m["fingerprint"].update(teacher_sha256="0" * 64)), "teacher_sha256: expected"),
        (spoil_manifest(lambda m: m["fingerprint"].update(data_digest="0" * 64)), "data_digest: expected"),
        (spoil_manifest(lambda m: m["fingerprint"].update(vocab=999)), "vocab: expected 300, found 999"),
    ],
)
def test_a_spoilt_or_foreign_cache_is_refused(config, spoil, says):
    data = prepare(config)
    folder = precompute(config, data)
    open_cache(config, data)  # whole before it is spoilt
    spoil(folder)
    with pytest.raises(CacheError, match=says):
        open_cache(config, data)


def test_a_changed_temperature_matters_to_top_rows_only(config):
    data = prepare(config)
    precompute(config, data)
    open_cache(with_(config, temperature=3.0), data)
    top = cached(with_(config, output_dir=config.output_dir / "top"), kind="top", k=4)
    precompute(top, data)
    with pytest.raises(CacheError, match=r"temperature: expected 3.0, found 1.0"):
        open_cache(with_(top, temperature=3.0), data)


def test_precompute_over_another_runs_cache_is_refused(config):
    data = prepare(config)
    precompute(config, data)
    with pytest.raises(CacheError, match=r"batch_rows: expected 2, found 4"):
        precompute(cached(config, batch_rows=2), data)


def test_precompute_without_a_teacher_is_refused(config):
    with pytest.raises(ConfigError, match="teacher: expected a local model directory"):
        precompute(with_(config, teacher=None), prepare(config))
