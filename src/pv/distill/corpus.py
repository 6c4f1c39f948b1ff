"""Folders of text -> a tokenizer and three disjoint sets of token rows: teacher, student, validation.

A document goes to a part by the hash of its text, so that adding a file moves no other. Exact duplicates are dropped
first: vendored copies of one file would otherwise stand on both sides of the split. A row is sequence_length + 1 tokens
of the part's documents laid end to end, each followed by <eos>.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from pv.distill.config import CorpusConfig, DistillConfig
from pv.distill.files import replace_file, sha256_file, write_json

EOS, PAD = "<eos>", "<pad>"
ENDS = (EOS, "<|endoftext|>", "<|im_end|>", "</s>")  # names under which tokenizers keep the end of a document
Part = Literal["teacher", "student", "validation"]
Progress = Callable[[str, int, int], None]  # (what, done, total)


class CorpusError(Exception):
    """The text cannot serve: nothing found, too little of it, or a prepared folder that is not of these settings."""


@dataclass(frozen=True, slots=True)
class Document:
    """One text and the digest that decides its part."""

    path: Path
    text: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Data:
    """Prepared rows. `digest` names the documents, the split and the tokenizer; a cache of logits is bound to it."""

    folder: Path
    tokenizer: Path
    vocab: int
    rows: dict[str, np.ndarray]  # part -> (rows, sequence_length + 1), int32
    digest: str

    def part(self, name: Part) -> np.ndarray:
        return self.rows[name]


def prepare(config: DistillConfig, progress: Progress = lambda *_: None) -> Data:
    """Read, split, tokenize and keep the rows under `data_dir`; a second call with the same settings loads them.

    Raises CorpusError when there is too little text for the rows asked for, naming how much there is.
    """
    folder = config.data_dir or config.output_dir / "data"
    wanted = settings_digest(config)
    if (folder / "data.json").exists():
        return _load(folder, wanted, config)
    documents = read_documents(config.corpus, progress)
    parts = split(documents, config.corpus)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(config, parts, folder)
    rows = _rows(config, parts, tokenizer, progress)
    save_file(rows, folder / "rows.safetensors.tmp")
    replace_file(folder / "rows.safetensors.tmp", folder / "rows.safetensors")
    facts = {
        "settings": wanted,
        "vocab": tokenizer.get_vocab_size(),
        "documents": {name: len(docs) for name, docs in parts.items()},
        "tokens": {name: int(part.size) for name, part in rows.items()},
        "corpus_sha256": _digest_of(document.sha256 for document in documents),
        "tokenizer_sha256": sha256_file(folder / "tokenizer.json"),
        "rows_sha256": sha256_file(folder / "rows.safetensors"),
    }
    write_json(folder / "data.json", facts)
    return _load(folder, wanted, config)


def settings_digest(config: DistillConfig) -> str:
    """What the rows depend on, apart from the text and the tokenizer: the split and the row length."""
    told = {"corpus": config.corpus.model_dump(mode="json"), "sequence_length": config.sequence_length}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def read_documents(config: CorpusConfig, progress: Progress = lambda *_: None) -> list[Document]:
    """Every readable document once, in an order drawn from its digest. Unreadable and binary files are left out."""
    by_digest: dict[str, Document] = {}
    for seen, path in enumerate(_files(config), 1):
        progress("reading", seen, 0)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        if len(text) >= config.min_chars:
            digest = hashlib.sha256(text.encode()).hexdigest()
            by_digest.setdefault(digest, Document(path, text, digest))
    if not by_digest:
        places = ", ".join(map(str, config.paths))
        raise CorpusError(
            f"expected text files ({' '.join(config.suffixes)}) of at least {config.min_chars} characters"
            f" under {places}, found none; check corpus.paths, corpus.suffixes and corpus.exclude"
        )
    documents = list(by_digest.values())
    if config.max_documents is not None:
        # Another order than the split's: cut in that one, the first documents would all be validation.
        documents.sort(key=lambda document: _order(document, config.seed, "cut"))
        documents = documents[: config.max_documents]
    return sorted(documents, key=lambda document: _order(document, config.seed, "part"))


def split(documents: Sequence[Document], config: CorpusConfig) -> dict[str, list[Document]]:
    """validation: those whose hash falls in its share; the rest in hash order, to be cut into student and teacher."""
    share = int(config.validation_share * 2**64)
    validates = [int(_order(document, config.seed, "part")[:16], 16) < share for document in documents]
    return {
        "training": [d for d, held in zip(documents, validates, strict=True) if not held],
        "validation": [d for d, held in zip(documents, validates, strict=True) if held],
    }


def _order(document: Document, seed: int, purpose: str) -> str:
    return hashlib.sha256(f"{seed}:{purpose}:{document.sha256}".encode()).hexdigest()


def _files(config: CorpusConfig) -> Iterator[Path]:
    for root in config.paths:
        if root.is_file():
            yield root
            continue
        for folder, folders, names in os.walk(root):
            folders.sort()
            for name in sorted(names):
                path = Path(folder, name)
                shown = path.as_posix()
                if path.suffix in config.suffixes and not any(part in shown for part in config.exclude):
                    yield path


def _tokenizer_source(config: DistillConfig) -> Path | None:
    """The tokenizer.json to use: the one named, else the teacher's, else None (one is trained)."""
    for place in (config.tokenizer.path, config.teacher):
        if place is not None:
            file = place / "tokenizer.json" if place.is_dir() else place
            if file.is_file():
                return file
            if place is config.tokenizer.path:
                raise CorpusError(f"tokenizer.path: expected a tokenizer.json or a model directory, found {place}")
    return None


def _tokenizer(config: DistillConfig, parts: dict[str, list[Document]], folder: Path) -> Tokenizer:
    source = _tokenizer_source(config)
    if source is not None:
        tokenizer = Tokenizer.from_file(str(source))
        end_token(tokenizer, source)
        (folder / "tokenizer.json.tmp").write_bytes(source.read_bytes())
    else:
        tokenizer = train_tokenizer(_sample(parts["training"], config.tokenizer.sample_chars), config.tokenizer.vocab)
        tokenizer.save(str(folder / "tokenizer.json.tmp"))
    replace_file(folder / "tokenizer.json.tmp", folder / "tokenizer.json")
    return tokenizer


def _sample(documents: Sequence[Document], chars: int) -> Iterator[str]:
    """Whole documents, in their drawn order, until there are enough characters."""
    for document in documents:
        if chars <= 0:
            return
        chars -= len(document.text)
        yield document.text


def end_token(tokenizer: Tokenizer, where: Path) -> int:
    """The id that ends a document. Raises CorpusError naming what was looked for."""
    for name in ENDS:
        found: int | None = tokenizer.token_to_id(name)
        if found is not None:
            return found
    raise CorpusError(f"{where}: expected a token that ends a document ({', '.join(ENDS)}), found none")


def train_tokenizer(texts: Iterable[str], vocab: int) -> Tokenizer:
    """Byte-level BPE (Sennrich et al. 2016; GPT-2's byte alphabet): every text round-trips."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab,
            special_tokens=[EOS, PAD],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return tokenizer


def _rows(
    config: DistillConfig, parts: dict[str, list[Document]], tokenizer: Tokenizer, progress: Progress
) -> dict[str, np.ndarray]:
    width = config.sequence_length + 1
    validation = _cut(_encode(tokenizer, parts["validation"], "validation", progress), width)
    validation = validation[: config.corpus.validation_rows]
    student, rest = _student_first(config, parts["training"], tokenizer, progress)
    teacher = _cut(_encode(tokenizer, rest, "teacher", progress), width)[: config.corpus.teacher_rows]
    rows = {"validation": validation, "student": student, "teacher": teacher}
    for name, least in (("validation", 1), ("student", config.corpus.student_rows)):
        if len(rows[name]) < least:
            raise CorpusError(
                f"expected {least} rows of {width} tokens for the {name} part, found {len(rows[name])}; "
                "add text to corpus.paths, or lower sequence_length or corpus.student_rows"
            )
    return rows


def _student_first(
    config: DistillConfig, documents: list[Document], tokenizer: Tokenizer, progress: Progress
) -> tuple[np.ndarray, list[Document]]:
    """The student's documents are taken first, whole, until its rows are full; the teacher never sees any of them."""
    width, want = config.sequence_length + 1, config.corpus.student_rows
    tokens: list[np.ndarray] = []
    count = used = 0
    while used < len(documents) and count < want * width:
        batch = documents[used : used + 64]
        for ids in _encode_each(tokenizer, batch):
            used += 1
            tokens.append(ids)
            count += len(ids)
            if count >= want * width:
                break
        progress("tokenizing student", min(count, want * width), want * width)
    joined = np.concatenate(tokens) if tokens else np.zeros(0, np.int32)
    return _cut(joined, width)[:want], documents[used:]


def _encode_each(tokenizer: Tokenizer, documents: Sequence[Document]) -> Iterator[np.ndarray]:
    eos = next(found for name in ENDS if (found := tokenizer.token_to_id(name)) is not None)
    for encoding in tokenizer.encode_batch_fast([d.text for d in documents], add_special_tokens=False):
        yield np.array([*encoding.ids, eos], dtype=np.int32)


def _encode(tokenizer: Tokenizer, documents: Sequence[Document], what: str, progress: Progress) -> np.ndarray:
    pieces: list[np.ndarray] = []
    for start in range(0, len(documents), 256):
        pieces += _encode_each(tokenizer, documents[start : start + 256])
        progress(f"tokenizing {what}", min(start + 256, len(documents)), len(documents))
    return np.concatenate(pieces) if pieces else np.zeros(0, np.int32)


def _cut(tokens: np.ndarray, width: int) -> np.ndarray:
    return np.ascontiguousarray(tokens[: len(tokens) // width * width].reshape(-1, width))


def _load(folder: Path, wanted: str, config: DistillConfig) -> Data:
    facts = json.loads((folder / "data.json").read_text(encoding="utf-8"))
    if facts["settings"] != wanted or not _same_tokenizer(config, facts):
        raise CorpusError(
            f"{folder} was prepared with other settings of corpus, tokenizer or sequence_length; "
            "choose another data_dir, or remove that folder to prepare it again"
        )
    for name, key in (("rows.safetensors", "rows_sha256"), ("tokenizer.json", "tokenizer_sha256")):
        if sha256_file(folder / name) != facts[key]:
            raise CorpusError(
                f"{folder / name} is not the file that data.json describes; remove {folder} and run again"
            )
    rows = load_file(folder / "rows.safetensors")
    digest = _digest_of((facts["rows_sha256"], facts["tokenizer_sha256"]))
    return Data(folder, folder / "tokenizer.json", facts["vocab"], rows, digest)


def _same_tokenizer(config: DistillConfig, facts: dict[str, Any]) -> bool:
    """Whether the prepared rows speak the tokenizer that is asked for; a teacher that is gone asks for none."""
    source = _tokenizer_source(config)
    if source is not None:
        return bool(sha256_file(source) == facts["tokenizer_sha256"])
    return config.teacher is not None or bool(config.tokenizer.vocab == facts["vocab"])


def _digest_of(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
