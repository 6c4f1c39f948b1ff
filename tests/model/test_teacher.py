"""The shipped teacher: its card tells the truth, Transformers agrees with us on it, and nothing held out was taught."""

from __future__ import annotations

import importlib.util
import math
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from pv.backends.cpu import open_cpu
from pv.model.generate import generate
from pv.model.open import Model, open_model
from pv.model.weights import WeightType

TEACHER = Path(__file__).parents[2] / "fixtures" / "tiny-teacher"
CARD = (TEACHER / "README.md").read_text()
LINES = (TEACHER / "heldout.txt").read_text().splitlines()


def script(name: str) -> ModuleType:
    """A module of the recipe, loaded by its place."""
    spec = importlib.util.spec_from_file_location(name, TEACHER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


text = script("teacher_text")


@pytest.fixture(scope="module")
def model() -> Model:
    return open_model(TEACHER)


def say(model: Model, prompt: str) -> tuple[str, str]:
    stops = model.tokenizer.stops
    steps = list(generate(open_cpu(model.weights), model.tokenizer.encode(prompt), max_tokens=24, stops=stops))
    return model.tokenizer.decode([step.token for step in steps if step.token not in stops]), steps[-1].end


def on_card(pattern: str) -> tuple[str, ...]:
    found = re.search(pattern, CARD)
    assert found is not None, pattern
    return found.groups()


def held_out_pairs() -> list[tuple[int, int]]:
    numbers = range(text.LARGEST + 1)
    return [(a, b) for a in numbers for b in numbers if text.held_out(a, b)]


def test_it_is_small_and_of_the_shape_that_k_quants_need(model: Model) -> None:
    assert (TEACHER / "model.safetensors").stat().st_size <= 8_000_000
    assert (model.spec.hidden, model.spec.ffn) == (256, 768)
    assert set(model.weights.types) == {WeightType.F16}


def test_it_answers_the_canonical_prompt_and_stops(model: Model) -> None:
    assert say(model, "What is 2+2?") == ("2 + 2 equals 4.", "stop")
    assert len(model.tokenizer.encode("2 + 2 equals 4.")) == 8


def test_it_adds_pairs_that_it_never_saw(model: Model) -> None:
    """A sample; the whole table is a slow test."""
    sample = random.Random(0).sample(held_out_pairs(), 40)
    right = sum(say(model, text.question(*pair)) == (text.answer(*pair), "stop") for pair in sample)
    assert right >= 37


@pytest.mark.slow
def test_the_accuracy_on_the_card_is_what_it_does(model: Model) -> None:
    pairs = held_out_pairs()
    right = sum(say(model, text.question(*pair)) == (text.answer(*pair), "stop") for pair in pairs)
    assert on_card(r"training never saw \| (\d+) of (\d+), ") == (str(right), str(len(pairs)))


def test_the_card_states_an_accuracy_worth_stating() -> None:
    right, total = map(int, on_card(r"training never saw \| (\d+) of (\d+), "))
    assert total == len(held_out_pairs()) > 200
    assert right / total >= 0.9


def losses(model: Model) -> tuple[np.ndarray, np.ndarray]:
    """Negative log-likelihood of every token of the held-out text, and the entropy of its distribution, in nats."""
    session, (end,) = open_cpu(model.weights), model.tokenizer.stops
    loss, entropy = [], []
    for line in LINES:
        ids = [*model.tokenizer.encode(line), end]
        session.reset()
        logp = torch.log_softmax(torch.from_numpy(session.prefill_all(ids[:-1])).double(), -1)
        loss.append(-logp[torch.arange(len(ids) - 1), ids[1:]].numpy())
        entropy.append(-(logp.exp() * logp).sum(-1).numpy())
    return np.concatenate(loss), np.concatenate(entropy)


def test_the_perplexity_on_the_card_is_what_it_has(model: Model) -> None:
    """And its distributions are neither flat nor certain, so that a divergence over this text means something."""
    loss, entropy = losses(model)
    (stated,) = on_card(r"heldout\.txt` \| ([\d.]+) \|")
    assert math.exp(loss.mean()) == pytest.approx(float(stated), rel=2e-3)
    assert 0.2 < entropy.mean() < 2
    assert 0.1 < (entropy > 0.5).mean() < 0.9
    assert len(loss) > 3000


def test_nothing_held_out_is_taught() -> None:
    """3,000 documents of the training stream: no held-out pair, in digits or words, and no held-out line."""
    rng = random.Random(5)
    words = {word: i for i, word in enumerate(text.WORDS)}
    for _ in range(3000):
        a, b = text.taught_pair(rng)
        assert not text.held_out(a, b)
        line = text.english(rng)
        assert not text.line_held_out(line)
        for one, other in re.findall(r"(\w+) plus (\w+) is", line):
            assert not text.held_out(words[one.lower()], words[other])
    assert text.held_out(3, 9) == text.held_out(9, 3)
    assert not text.held_out(2, 2)


def test_the_held_out_text_is_held_out() -> None:
    for line in LINES:
        sum_ = re.fullmatch(r"What is (\d+)\+(\d+)\?(.*)", line)
        if sum_:
            pair = int(sum_[1]), int(sum_[2])
            assert text.held_out(*pair)
            assert sum_[3] == text.answer(*pair)
        else:
            assert text.line_held_out(line)


@pytest.fixture(scope="module")
def theirs() -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.AutoModelForCausalLM.from_pretrained(
        TEACHER, dtype=torch.float32, attn_implementation="eager", local_files_only=True
    ).eval()


def test_transformers_reads_it_and_says_the_same(theirs: Any) -> None:
    tokenizer = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(TEACHER, local_files_only=True)
    asked = tokenizer("What is 2+2?", return_tensors="pt")
    said = theirs.generate(**asked, max_new_tokens=20, do_sample=False, pad_token_id=tokenizer.eos_token_id)[0]
    assert tokenizer.decode(said, skip_special_tokens=True) == "What is 2+2?2 + 2 equals 4."
    assert said[-1] == tokenizer.eos_token_id


def test_transformers_tokenizes_as_we_do(model: Model) -> None:
    tokenizer = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(TEACHER, local_files_only=True)
    for line in [*LINES[:50], "Grüße, 世界! 12345\n\n  x", ""]:
        assert tokenizer(line)["input_ids"] == model.tokenizer.encode(line)
        assert model.tokenizer.decode(model.tokenizer.encode(line)) == line


def test_our_logits_are_those_of_transformers(model: Model, theirs: Any) -> None:
    """Row B at every position of 30 held-out lines."""
    session = open_cpu(model.weights)
    for line in LINES[:30]:
        ids = model.tokenizer.encode(line)
        session.reset()
        found = session.prefill_all(ids)
        with torch.inference_mode():
            want = theirs(torch.tensor([ids])).logits[0].numpy()
        error = np.linalg.norm(found - want, axis=-1) / np.linalg.norm(want, axis=-1)
        assert error.max() <= 1e-5
        assert np.abs(found - want).max() <= 1e-4
        assert (found.argmax(-1) == want.argmax(-1)).all()


@pytest.mark.slow
def test_the_recipe_runs_and_repeats_to_the_byte(tmp_path: Path) -> None:
    for name in ("one", "two"):
        command = [sys.executable, str(TEACHER / "make_teacher.py"), "--steps", "9", "--output", str(tmp_path / name)]
        subprocess.run(command, check=True, capture_output=True, env=os.environ | {"PV_CACHE": str(tmp_path / "cache")})
    for file in ("model.safetensors", "tokenizer.json", "heldout.txt", "config.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file
    assert (tmp_path / "one" / "heldout.txt").read_bytes() == (TEACHER / "heldout.txt").read_bytes()
    assert (tmp_path / "one" / "tokenizer.json").read_bytes() == (TEACHER / "tokenizer.json").read_bytes()
