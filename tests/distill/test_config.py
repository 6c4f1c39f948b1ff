"""The configuration: every mistake has a line, a name, what was expected and what was found."""

from __future__ import annotations

import pytest

from pv.distill.config import ConfigError, load_config

GOOD = """\
corpus:
  paths: [text]
  student_rows: 10
student: {hidden: 16, layers: 1, heads: 2, kv_heads: 1, ffn: 32}
output_dir: out
learning_rate: 1e-3
"""


def load(tmp_path, text, **overrides):
    file = tmp_path / "distill.yaml"
    file.write_text(text)
    return load_config(file, overrides)


def test_paths_are_relative_to_the_file_and_numbers_are_numbers(tmp_path):
    config = load(tmp_path, GOOD)
    assert config.output_dir == tmp_path / "out"
    assert config.corpus.paths == (tmp_path / "text",)
    assert config.learning_rate == 0.001
    assert (config.temperature, config.alpha) == (3.0, 0.7)


def test_the_command_line_wins(tmp_path):
    config = load(tmp_path, GOOD, alpha=0.25, **{"cache.kind": "top", "cache.k": 9})
    assert (config.alpha, config.cache.kind, config.cache.k) == (0.25, "top", 9)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (GOOD + "alpha: 1.5\n", r"distill.yaml:7: alpha: .*less than or equal to 1, found 1.5"),
        (GOOD + "alpha: .nan\n", r"distill.yaml:7: alpha: .*found nan"),
        (GOOD + "temperature: 0\n", r"distill.yaml:7: temperature: .*greater than 0, found 0"),
        (GOOD + "epocs: 3\n", r"distill.yaml:7: epocs: .*not permitted"),
        (GOOD.replace("student_rows: 10", "student_rows: none"), r"distill.yaml:3: corpus.student_rows: .*'none'"),
        (GOOD.replace("hidden: 16", "hidden: -1"), r"distill.yaml:4: student.hidden: .*found -1"),
        (GOOD.replace("output_dir: out\n", ""), r"output_dir: Field required"),
        (GOOD + "teacher: https://example.org/model\n", "expected a local model directory"),
        ("- a list\n", "expected a mapping of settings, found list"),
        ("{{{", "not a YAML document"),
        ("[" * 5000, "not a YAML document"),
        ("!!python/object/apply:os.system ['true']", "not a YAML document"),
        ("", "expected a mapping of settings, found NoneType"),
    ],
)
def test_mistakes_are_named_with_their_line(tmp_path, text, says):
    with pytest.raises(ConfigError, match=says):
        load(tmp_path, text)


def test_every_mistake_is_told_at_once(tmp_path):
    with pytest.raises(ConfigError) as told:
        load(tmp_path, GOOD + "alpha: 2\ntemperature: -1\nepochs: 0\n")
    assert len(str(told.value).splitlines()) == 3


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="expected a readable UTF-8 YAML file"):
        load_config(tmp_path / "nothing.yaml")
