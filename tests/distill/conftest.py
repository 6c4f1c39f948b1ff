"""A small corpus, a small trained-enough teacher and a config: seconds on one core."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pv.distill.config import DistillConfig, load_config

WORDS = "the sum of two and three is five so we add four to six then take one away from the ten that is left".split()


def write_corpus(folder: Path, documents: int = 80, words: int = 260) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(5)
    for number in range(documents):
        text = " ".join(draw.choice(WORDS) for _ in range(words))
        (folder / f"{number:03d}.txt").write_text(f"{number}: {text}\n")
    return folder


def write_config(folder: Path, corpus: Path, **more) -> Path:
    import json

    settings = {
        "corpus": {"paths": [str(corpus)], "student_rows": 24, "validation_share": 0.15},
        "tokenizer": {"vocab": 300},
        "student": {"hidden": 16, "layers": 1, "heads": 2, "kv_heads": 1, "ffn": 32},
        "output_dir": str(folder / "out"),
        "data_dir": str(folder / "data"),
        "sequence_length": 16,
        "batch_size": 4,
        "learning_rate": 3e-3,
        "device": "cpu",
        "checkpoint_every": 2,
        "cache": {"rows_per_shard": 8, "batch_rows": 4},
        **more,
    }
    file = folder / "distill.json"  # JSON is YAML
    file.write_text(json.dumps(settings))
    return file


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def teacher(corpus, tmp_path_factory) -> Path:
    """A teacher made as users make one: trained on the teacher's part at alpha 0."""
    from pv.distill.corpus import prepare
    from pv.distill.train import train

    folder = tmp_path_factory.mktemp("teacher")
    shape = {"hidden": 32, "layers": 2, "heads": 2, "kv_heads": 1, "ffn": 64}
    file = write_config(folder, corpus, alpha=0.0, train_on="teacher", student=shape, batch_size=16)
    config = load_config(file)
    return train(config, prepare(config)).student


@pytest.fixture
def config(tmp_path, corpus, teacher) -> DistillConfig:
    return load_config(write_config(tmp_path, corpus, teacher=str(teacher), alpha=0.9, temperature=1.0))
