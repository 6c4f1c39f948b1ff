"""Shared ground of the distillation checks: a small corpus, a teacher made as users make one, the command in-process.

The public command is called in this process, so that a planted defect reaches the very code that it runs.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file


class Ran(NamedTuple):
    """What a call of the command came to."""

    code: int
    stderr: str
    crashed: bool


def run_distill(config: Path, stage: str, *options: str) -> Ran:
    """`pv distill --config CONFIG --stage STAGE …` through its click command."""
    from pv.cli.distill import distill

    talk = io.StringIO()
    arguments = ["--config", str(config), "--stage", stage, *options]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(talk):
        try:
            distill.main(arguments, standalone_mode=False, prog_name="pv distill")
        except SystemExit as stop:
            return Ran(int(stop.code or 0), talk.getvalue(), crashed=False)
        except Exception as error:
            import click

            expected = isinstance(error, click.ClickException)
            return Ran(2 if expected else 3, f"{talk.getvalue()}{error}", crashed=not expected)
    return Ran(0, talk.getvalue(), crashed=False)


@dataclass(frozen=True)
class Ground:
    """A folder with text, a teacher trained on its part of it, and the settings that go with both."""

    root: Path
    teacher: Path
    settings: dict[str, Any]

    def config(self, folder: Path, **more: Any) -> Path:
        """A config file in `folder`, whose cache, checkpoints and student stay there too."""
        folder.mkdir(parents=True, exist_ok=True)
        settings = {**self.settings, "output_dir": str(folder / "out"), **more}
        file = folder / "distill.json"  # JSON is YAML
        file.write_text(json.dumps(settings))
        return file


def small_ground(root: Path) -> Ground:
    """The standard library's text (it is on every machine), a 300-word tokenizer and a teacher of two layers."""
    settings = {
        "corpus": {
            "paths": [os.path.dirname(os.__file__)],
            "suffixes": [".py"],
            "exclude": ["site-packages", "/test/", "/tests/", "/idlelib/", "/lib2to3/", "/ensurepip/"],
            "max_documents": 24,
            "validation_share": 0.2,
            "student_rows": 64,
            "teacher_rows": 512,
            "validation_rows": 32,
        },
        "tokenizer": {"vocab": 300},
        "student": {"hidden": 32, "layers": 1, "heads": 2, "kv_heads": 1, "ffn": 64},
        "data_dir": str(root / "data"),
        "sequence_length": 32,
        "batch_size": 8,
        "learning_rate": 5e-3,
        "temperature": 1.0,
        "alpha": 0.9,
        "device": "cpu",
        "cache": {"rows_per_shard": 24, "batch_rows": 8},
    }
    ground = Ground(root, root / "teacher" / "out" / "student", settings)
    shape = {"hidden": 48, "layers": 2, "heads": 2, "kv_heads": 1, "ffn": 96}
    made = run_distill(ground.config(root / "teacher", student=shape, alpha=0.0, train_on="teacher"), "train")
    if made.code:
        raise RuntimeError(f"the teacher could not be made: {made.stderr}")
    return Ground(root, ground.teacher, {**settings, "teacher": str(ground.teacher)})


def ground_of(context: Any) -> Ground:
    """Built once for all checks of a worker."""
    import tempfile

    return context.subject("small-ground", lambda: small_ground(Path(tempfile.mkdtemp(prefix="pv-distill-"))))


def must(ran: Ran) -> Ran:
    """A step that is not under test has to work."""
    if ran.code:
        raise RuntimeError(f"exit {ran.code}: {ran.stderr}")
    return ran


def largest_relative_change(before: dict[str, torch.Tensor], after: Path) -> float:
    """max over tensors of |after - before| / |before|; a tensor that started at zero has no such ratio and is left."""
    trained = load_file(after / "model.safetensors")
    worst = 0.0
    for name, start in before.items():
        norm = float(start.float().norm())
        if norm:
            worst = max(worst, float((trained[name].float() - start.float()).norm()) / norm)
    return worst


def start_of(config: Path) -> dict[str, torch.Tensor]:
    """The student's tensors before its first step, under Transformers' names."""
    from pv.distill.config import load_config
    from pv.distill.corpus import prepare
    from pv.distill.student import starting_point
    from pv.model.weights import hf_names

    settings = load_config(config)
    spec, tensors = starting_point(settings, prepare(settings).vocab)
    names = hf_names(spec)
    return {names[name]: tensor for name, tensor in tensors.items()}
