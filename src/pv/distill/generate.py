"""A trained student, from its files alone -> samples, greedy and seeded, as text and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pv.backends.cpu import open_cpu
from pv.distill.config import ConfigError
from pv.distill.files import write_json
from pv.model.generate import Sampling, generate
from pv.model.open import open_model

PROMPTS = ("def ", "The ", "import ", "What is 2+2?")


@dataclass(frozen=True, slots=True)
class Sample:
    """One continuation. Temperature 0 is greedy."""

    prompt: str
    temperature: float
    seed: int
    text: str
    tokens: tuple[int, ...]
    end: str


def write_samples(
    output_dir: Path, prompts: Sequence[str] = PROMPTS, *, max_tokens: int = 48, temperature: float = 0.8, seed: int = 0
) -> list[Sample]:
    """Greedy and seeded samples of `output_dir/student`, kept in samples.json. Raises ConfigError without a student."""
    student = output_dir / "student"
    if not (student / "model.safetensors").is_file():
        raise ConfigError(f"expected a trained student in {student}, found none; run `pv distill --stage train` first")
    model = open_model(student)
    session = open_cpu(model.weights)
    samples = []
    try:
        for prompt in prompts:
            ids = model.tokenizer.encode(prompt)
            for heat in (0.0, temperature):
                session.reset()
                steps = list(
                    generate(
                        session,
                        ids,
                        max_tokens=max_tokens,
                        sampling=Sampling(heat, seed=seed),
                        stops=model.tokenizer.stops,
                    )
                )
                tokens = tuple(step.token for step in steps)
                samples.append(Sample(prompt, heat, seed, model.tokenizer.decode(tokens), tokens, steps[-1].end))
    finally:
        session.close()
    write_json(output_dir / "samples.json", [asdict(sample) for sample in samples])
    return samples
