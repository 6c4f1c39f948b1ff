"""The corpus: disjoint parts, no duplicates across them, the same rows each time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from pv.distill.config import load_config
from pv.distill.corpus import CorpusError, prepare, read_documents, split, train_tokenizer
from tests.distill.conftest import write_config, write_corpus


def with_corpus(config, **changes):
    return config.model_copy(update={"corpus": config.corpus.model_copy(update=changes)})


def texts_of(data, part):
    tokenizer = Tokenizer.from_file(str(data.tokenizer))
    return tokenizer.decode(data.part(part).flatten().tolist())


def test_parts_are_disjoint(config):
    """Every document starts with its own number, so that a leak would show."""
    import re

    data = prepare(config)
    seen = {part: set(re.findall(r"(\d+): ", texts_of(data, part))) for part in ("teacher", "student", "validation")}
    assert all(seen.values())
    assert not seen["teacher"] & seen["student"]
    assert not seen["teacher"] & seen["validation"]
    assert not seen["student"] & seen["validation"]


def test_duplicates_are_dropped_before_the_split(tmp_path):
    folder = write_corpus(tmp_path / "text", documents=12)
    once = load_config(write_config(tmp_path, folder))
    before = [d.sha256 for d in read_documents(once.corpus)]
    for file in list(folder.iterdir()):
        (folder / f"copy-of-{file.name}").write_text(file.read_text())
    assert [d.sha256 for d in read_documents(once.corpus)] == before


def test_a_new_document_moves_no_other(tmp_path):
    folder = write_corpus(tmp_path / "text", documents=40)
    config = load_config(write_config(tmp_path, folder))
    before = {
        d.sha256: name for name, docs in split(read_documents(config.corpus), config.corpus).items() for d in docs
    }
    (folder / "new.txt").write_text("a new one " * 50)
    after = {d.sha256: name for name, docs in split(read_documents(config.corpus), config.corpus).items() for d in docs}
    assert {digest: after[digest] for digest in before} == before


def test_prepared_twice_is_loaded_once_and_equal(config):
    first = prepare(config)
    said = []
    second = prepare(config, lambda what, done, total: said.append(what))
    assert not said
    assert first.digest == second.digest
    assert all(np.array_equal(first.rows[part], second.rows[part]) for part in first.rows)


def test_rows_of_other_settings_are_refused(config):
    prepare(config)
    with pytest.raises(CorpusError, match="other settings"):
        prepare(with_corpus(config, seed=9))


def test_an_edited_rows_file_is_refused(config):
    data = prepare(config)
    file = data.folder / "rows.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x07")
    with pytest.raises(CorpusError, match="not the file that data"):
        prepare(config)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "found none; check corpus.paths"),
        ({"a.txt": "short"}, "found none"),
        ({"a.bin": "x" * 900}, "found none"),
        ({"a.txt": "words and more words " * 30}, "expected .* rows"),
    ],
)
def test_too_little_text_is_said_with_numbers(tmp_path, files, says):
    folder = tmp_path / "text"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    with pytest.raises(CorpusError, match=says):
        prepare(load_config(write_config(tmp_path, folder)))


def test_files_that_are_no_text_are_left(tmp_path):
    folder = write_corpus(tmp_path / "text", documents=3)
    (folder / "latin.txt").write_bytes(b"\xe9" * 500)
    (folder / "link.txt").symlink_to(folder / "000.txt")
    config = load_config(write_config(tmp_path, folder))
    assert len(read_documents(config.corpus)) == 3


@given(st.text(max_size=200))
@settings(max_examples=50, deadline=None)
def test_every_text_survives_the_tokenizer(text):
    tokenizer = _TOKENIZER
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids, skip_special_tokens=False) == text


_TOKENIZER = train_tokenizer(["the sum of two and three is five"] * 20, 300)


def test_a_cut_corpus_keeps_the_share_of_each_part(tmp_path):
    folder = write_corpus(tmp_path / "text", documents=200, words=60)
    config = with_corpus(load_config(write_config(tmp_path, folder)), max_documents=60, validation_share=0.3)
    parts = split(read_documents(config.corpus), config.corpus)
    assert len(parts["training"]) + len(parts["validation"]) == 60
    assert 8 <= len(parts["validation"]) <= 30


def test_a_teachers_own_tokenizer_is_used_and_another_is_refused(config, teacher, tmp_path):
    data = prepare(config)
    assert data.tokenizer.read_bytes() == (teacher / "tokenizer.json").read_bytes()
    train_tokenizer(["another one"] * 9, 280).save(str(tmp_path / "tokenizer.json"))
    other = config.model_copy(update={"tokenizer": config.tokenizer.model_copy(update={"path": tmp_path})})
    with pytest.raises(CorpusError, match="other settings"):
        prepare(other)
