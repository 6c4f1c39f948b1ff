"""`pv distill` really trains: each claim of apr-cli-distill-train-v1 attacked through the command itself."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import itertools
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from pv.falsify import Control, Measurement, falsifier, harness, measure

from ._cli import live_tree, registered_tree
from ._distill import Ran, ground_of, largest_relative_change, must, run_distill, start_of
from ._distill_margins import SIZES, Tamper, margins, shifted_cache, strangers_cache
from ._plant import patched

TEMPERATURES = (1.0, 2.0, 3.0, 5.0, 10.0)


# --- 001: the student moved -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def cloning_stub(context: Any) -> Iterator[None]:
    """`train` writes its start as the student, with metadata as if it had worked."""
    from pv.distill import train as module
    from pv.distill.student import Student, starting_point

    def stub(config: Any, data: Any, progress: Any = None) -> Any:
        spec, start = starting_point(config, data.vocab)
        folder = config.output_dir / "student"
        metadata = {"train_loss": 1.0, "val_loss": 1.0, "kl_loss": 0.5, "ce_loss": 1.0, "total_loss": 1.0}
        module.save_model(folder, Student(spec, start), data.tokenizer, metadata)
        return module.Trained(folder, metadata, 8)

    with patched(module, "train", stub):
        yield


@contextlib.contextmanager
def metadata_only(context: Any) -> Iterator[None]:
    """The steps are counted and the losses written, but no weight is changed, and nobody looks."""
    from pv.distill import train as module

    with patched(torch.optim.AdamW, "step", lambda self: None), patched(module, "refuse_unchanged", lambda *_: None):
        yield


@falsifier(
    "FALSIFY-APR-DISTILL-TRAIN-001",
    level="live",
    controls=[
        Control("a stub that clones the start", plant=cloning_stub, breaks="largest_relative_change"),
        Control("only the metadata change", plant=metadata_only, breaks="largest_relative_change"),
    ],
    attacks=["pv.distill.train.train", "pv.cli.distill.distill"],
    data=["falsifiers/_distill.py"],
)
def the_student_moves(context: Any) -> list[Measurement]:
    """Compare the student's tensors before and after `--stage train`."""
    config = ground_of(context).config(context.scratch, alpha=0.0)
    before = start_of(config)
    must(run_distill(config, "train"))
    change = largest_relative_change(before, context.scratch / "out" / "student")
    return [measure("largest_relative_change", change, n=len(before))]


# --- 002: the divergence falls ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def uphill(context: Any) -> Iterator[None]:
    """The gradient of the divergence has the wrong sign; the loss that is reported is right."""
    from pv.distill import loss

    healthy = loss._divergence_and_target

    def turned(*arguments: Any) -> Any:
        kl, q, target = healthy(*arguments)
        return kl, target.clone(), q

    with patched(loss, "_divergence_and_target", turned):
        yield


@falsifier(
    "FALSIFY-APR-DISTILL-TRAIN-002",
    level="live",
    controls=[Control("gradient of swapped arguments", plant=uphill, breaks="last_over_first")],
    attacks=["pv.distill.train.train", "pv.distill.loss.distillation_loss"],
    data=["falsifiers/_distill.py"],
)
def the_divergence_falls(context: Any) -> list[Measurement]:
    """Six epochs; kl_loss from each epoch's metadata.json."""
    config = ground_of(context).config(context.scratch, alpha=1.0, epochs=6)
    must(run_distill(config, "precompute"))
    must(run_distill(config, "train"))
    folders = sorted((context.scratch / "out").glob("epoch-*"))
    kl = [json.loads((folder / "metadata.json").read_text())["kl_loss"] for folder in folders]
    steps = [later / earlier for earlier, later in itertools.pairwise(kl)]
    context.note("kl by epoch: " + ", ".join(f"{value:.4f}" for value in kl))
    return [
        measure("worst_step_up", max(steps), unit="ratio", n=len(steps)),
        measure("last_over_first", kl[-1] / kl[0], unit="ratio", n=len(kl)),
    ]


# --- 003 and its bounded proof: the ranking is kept -------------------------------------------------------------------


@contextlib.contextmanager
def teacher_upside_down(context: Any) -> Iterator[None]:
    """The teacher is softened by minus T."""
    from pv.distill import loss

    healthy = loss._divergence_and_target

    def turned(rows: Any, z: Any, temperature: float) -> Any:
        return healthy(dataclasses.replace(rows, logits=-rows.logits), z, temperature)

    with patched(loss, "_divergence_and_target", turned):
        yield


def softened(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """The target that the loss really teaches at this temperature: p = q - (gradient of T^2 KL) / T, per row."""
    from pv.distill.loss import FullRows, distillation_loss

    count, vocab = logits.shape
    student = torch.zeros(count, vocab, dtype=logits.dtype, requires_grad=True)  # q is uniform
    labels = torch.zeros(count, dtype=torch.long)
    eye = torch.eye(vocab, dtype=logits.dtype)
    loss = distillation_loss(
        student, eye, labels, FullRows(logits), alpha=1.0, temperature=temperature, denominator=1, chunk=4096
    )
    (gradient,) = torch.autograd.grad(loss.total, student)
    return 1.0 / vocab - gradient / temperature


@falsifier(
    "FALSIFY-APR-DISTILL-TRAIN-003",
    level="live",
    controls=[Control("softened by minus T", plant=teacher_upside_down, breaks="argmax_kept")],
    attacks=["pv.distill.loss.distillation_loss", "pv.distill.precompute.precompute"],
    data=["falsifiers/_distill.py"],
)
def softening_keeps_the_argmax(context: Any) -> list[Measurement]:
    """1,000 random vectors, and the cached rows of a trained teacher, through the loss that trains."""
    from pv.distill.cache import LogitsCache
    from pv.distill.config import load_config
    from pv.distill.corpus import prepare
    from pv.distill.precompute import CACHE_FOLDER, expected_fields

    file = ground_of(context).config(context.scratch)
    must(run_distill(file, "precompute"))
    config = load_config(file)
    cache = LogitsCache(config.output_dir / CACHE_FOLDER, expected_fields(config, prepare(config), None))
    taught = cache.rows(range(16)).logits.double()  # type: ignore[union-attr]  # the config asks for full rows
    generator = torch.Generator().manual_seed(context.seed)
    vectors = torch.randn(1000, 64, generator=generator, dtype=torch.float64) * 4
    kept = downhill = cases = 0
    for logits in (vectors, taught):
        best = logits.argmax(-1)
        for temperature in TEMPERATURES:
            target = softened(logits, temperature)
            top = target.gather(-1, best[:, None]).squeeze(-1)
            kept += int((top >= target.amax(-1) - 1e-12).sum())
            downhill += int((top > 1.0 / logits.shape[1]).sum())  # the step raises the teacher's choice
            cases += len(logits)
    return [
        measure("argmax_kept", kept / cases, unit="share", n=cases),
        measure("gradient_points_to_the_argmax", downhill / cases, unit="share", n=cases),
    ]


@harness(
    "KH-APR-DISTILL-TRAIN-001",
    level="live",
    bound=8,
    controls=[Control("softened by minus T", plant=teacher_upside_down, breaks="broken_orders")],
    attacks=["pv.distill.loss.distillation_loss"],
    data=["falsifiers/_distill.py"],
)
def every_order_of_eight_keeps_its_ranking(context: Any) -> list[Measurement]:
    """All 8! orders of eight different logits, at five temperatures: the whole ranking, not the argmax alone."""
    orders = torch.tensor(list(itertools.permutations(range(8))), dtype=torch.float64)
    broken = cases = 0
    for temperature in TEMPERATURES:
        target = softened(orders, temperature)
        broken += int((target.argsort(-1) != orders.argsort(-1)).any(-1).sum())
        cases += len(orders)
        context.progress(cases, 5 * len(orders), "orders")
    context.exhaust(8, cases, cases == 5 * math.factorial(8))
    return [
        measure("broken_orders", broken, unit="orders", n=cases),
        measure("cases", cases, unit="cases", n=cases),
    ]


# --- 004 and its bounded proof: the ends of alpha ---------------------------------------------------------------------


def formula(config: Path, alpha: float) -> float:
    """The mean over all tokens of the step at the student's start, in float64, from files and paper alone."""
    from safetensors.torch import load_file

    from pv.distill.config import load_config
    from pv.distill.corpus import prepare
    from pv.distill.student import Student, starting_point
    from pv.distill.train import order

    settings = load_config(config)
    data = prepare(settings)
    spec, start = starting_point(settings, data.vocab)
    rows = data.part("student")
    with torch.no_grad():
        batch = torch.from_numpy(rows[order(settings.seed, 0, len(rows))]).long()
        logits = Student(spec, start).logits(batch[:, :-1]).double()
    if alpha == 0.0:
        return float(functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten()))
    shards = sorted((settings.output_dir / "teacher_logits").glob("shard-*"))
    taught = torch.cat([load_file(shard)["logits"] for shard in shards])[order(settings.seed, 0, len(rows))].double()
    T = settings.temperature
    log_p, log_q = (torch.log_softmax(z / T, -1) for z in (taught, logits))
    return float(T**2 * (log_p.exp() * (log_p - log_q)).sum(-1).mean())


@contextlib.contextmanager
def no_temperature_squared(context: Any) -> Iterator[None]:
    from pv.distill import loss

    healthy = loss._divergence_and_target

    def unscaled(rows: Any, z: Any, temperature: float) -> Any:
        kl, q, target = healthy(rows, z, temperature)
        return kl / temperature**2, q, target

    with patched(loss, "_divergence_and_target", unscaled):
        yield


@contextlib.contextmanager
def swapped_divergence(context: Any) -> Iterator[None]:
    """KL(student || teacher) in place of KL(teacher || student)."""
    from pv.distill import loss

    healthy = loss._divergence_and_target

    def swapped(rows: Any, z: Any, temperature: float) -> Any:
        _, q, target = healthy(rows, z, temperature)
        log_p = torch.log_softmax(rows.logits.to(z.dtype) / temperature, -1)
        return (q * (torch.log(q) - log_p)).sum(-1), q, target

    with patched(loss, "_divergence_and_target", swapped):
        yield


@contextlib.contextmanager
def batch_dependent_mean(context: Any) -> Iterator[None]:
    """The sum is divided by sequences, as `batchmean` does, not by tokens."""
    from pv.distill import loss

    healthy = loss.distillation_loss

    def batchmean(*arguments: Any, denominator: int, **settings: Any) -> Any:
        return healthy(*arguments, denominator=max(1, denominator // 32), **settings)

    from pv.distill import student

    with patched(student, "distillation_loss", batchmean):
        yield


@falsifier(
    "FALSIFY-APR-DISTILL-TRAIN-004",
    level="live",
    controls=[
        Control("T squared is dropped", plant=no_temperature_squared, breaks="alpha_1_relative_error"),
        Control("arguments of the divergence swapped", plant=swapped_divergence, breaks="alpha_1_relative_error"),
        Control("mean over sequences, not tokens", plant=batch_dependent_mean, breaks="alpha_0_relative_error"),
    ],
    attacks=["pv.distill.loss.distillation_loss", "pv.distill.train.train"],
    data=["falsifiers/_distill.py"],
)
def the_ends_of_alpha_are_one_term(context: Any) -> list[Measurement]:
    """One step over all rows at each end; the loss it reports against the formula at the same start."""
    ground, found = ground_of(context), {}
    for alpha in (1.0, 0.0):
        folder = context.scratch / f"alpha-{alpha:g}"
        config = ground.config(folder, alpha=alpha, temperature=3.0, batch_size=64)
        must(run_distill(config, "precompute"))
        must(run_distill(config, "train"))
        told = json.loads((folder / "out" / "epoch-001" / "metadata.json").read_text())["total_loss"]
        want = formula(config, alpha)
        found[alpha] = abs(told - want) / abs(want)
    tokens = 64 * 32
    return [
        measure("alpha_1_relative_error", found[1.0], n=tokens),
        measure("alpha_0_relative_error", found[0.0], n=tokens),
    ]


@contextlib.contextmanager
def smoothed_labels(context: Any) -> Iterator[None]:
    """A hundredth of the label's weight leaks into the whole vocabulary."""
    from pv.distill import loss

    healthy = loss._chunk_terms

    def smoothed(logits: Any, *rest: Any) -> Any:
        kl, ce, gradient = healthy(logits, *rest)
        return kl, 0.99 * ce - 0.01 * torch.log_softmax(logits, -1).mean(-1).sum(), gradient

    with patched(loss, "_chunk_terms", smoothed):
        yield


@harness(
    "KH-APR-DISTILL-TRAIN-002",
    level="live",
    bound=4,
    controls=[Control("smoothed labels", plant=smoothed_labels, breaks="broken_assignments")],
    attacks=["pv.distill.loss.distillation_loss"],
    data=["falsifiers/_distill.py"],
)
def every_assignment_of_four_labels(context: Any) -> list[Measurement]:
    """(4 labels and none) to the power of 4 tokens: at alpha 0 the total is torch's own cross-entropy."""
    from pv.distill.loss import IGNORE, distillation_loss

    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    weight = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    broken = cases = 0
    for labels in itertools.product((0, 1, 2, 3, IGNORE), repeat=4):
        chosen = torch.tensor(labels)
        total = distillation_loss(hidden, weight, chosen, None, alpha=0.0, temperature=3.0).total
        valid = int((chosen != IGNORE).sum())
        want = functional.cross_entropy(hidden @ weight.t(), chosen, reduction="sum") / max(1, valid)
        broken += abs(float(total) - float(want)) > 1e-12 * max(1.0, abs(float(want)))
        cases += 1
    context.exhaust(4, cases, cases == 5**4)
    return [
        measure("broken_assignments", broken, unit="assignments", n=cases),
        measure("cases", cases, unit="cases", n=cases),
    ]


# --- 005 and 006: the cache -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def noisy_teacher(context: Any) -> Iterator[None]:
    """Dropout left on in the teacher, in effect: logits differ a little each time."""
    from pv.distill import precompute as module

    healthy = module.encode_full

    def noisy(logits: torch.Tensor) -> Any:
        return healthy(logits + 0.05 * torch.randn(logits.shape))

    with patched(module, "encode_full", noisy):
        yield


@contextlib.contextmanager
def time_in_the_manifest(context: Any) -> Iterator[None]:
    """The manifest says when it was written."""
    import time

    from pv.distill import cache

    healthy = cache.write_json
    with patched(cache, "write_json", lambda place, value: healthy(place, {**value, "written": time.time_ns()})):
        yield


@falsifier(
    "FALSIFY-APR-DISTILL-TRAIN-005",
    level="live",
    controls=[
        Control("noise in the teacher", plant=noisy_teacher, breaks="differing_files"),
        Control("a time in the manifest", plant=time_in_the_manifest, breaks="differing_files"),
    ],
    attacks=["pv.distill.precompute.precompute"],
    data=["falsifiers/_distill.py"],
)
def two_precomputes_are_equal(context: Any) -> list[Measurement]:
    """Full and top-k caches, each written twice into folders of their own."""
    differing = compared = 0
    for kind in ("full", "top"):
        caches = []
        for turn in ("first", "second"):
            folder = context.scratch / kind / turn
            cache = {"kind": kind, "k": 16, "rows_per_shard": 24, "batch_rows": 8}
            must(run_distill(ground_of(context).config(folder, cache=cache), "precompute"))
            caches.append(folder / "out" / "teacher_logits")
        names = sorted({path.name for cache in caches for path in cache.iterdir()})
        for name in names:
            contents = [(cache / name).read_bytes() if (cache / name).exists() else None for cache in caches]
            differing += contents[0] != contents[1]
            compared += 1
    return [
        measure("differing_files", differing, unit="files", n=compared),
        measure("files_compared", compared, unit="files", n=compared),
    ]


@contextlib.contextmanager
def teacher_run_in_secret(context: Any) -> Iterator[None]:
    """`train` loads the teacher where it can, to fill in what the cache should hold."""
    from pv.distill import train as module
    from pv.distill.student import load_student

    healthy = module._open_cache

    def secretive(config: Any, data: Any) -> Any:
        with contextlib.suppress(Exception):
            load_student(config.teacher, "float32")
        return healthy(config, data)

    with patched(module, "_open_cache", secretive):
        yield


@contextlib.contextmanager
def any_cache_will_do(context: Any) -> Iterator[None]:
    """Fingerprints are not compared."""
    from pv.distill import cache

    with patched(cache, "differences", lambda expected, found: []):
        yield


@contextlib.contextmanager
def missing_cache_means_no_teacher(context: Any) -> Iterator[None]:
    """Without a cache, the student is quietly trained on labels alone."""
    from pv.distill import train as module
    from pv.distill.cache import CacheError

    healthy, loss = module._open_cache, module.Student.forward

    def lenient(config: Any, data: Any) -> Any:
        try:
            return healthy(config, data)
        except CacheError:
            return None

    def forward(self: Any, tokens: Any, labels: Any, teacher: Any, alpha: float, *rest: Any) -> Any:
        return loss(self, tokens, labels, teacher, alpha if teacher is not None else 0.0, *rest)

    with patched(module, "_open_cache", lenient), patched(module.Student, "forward", forward):
        yield


@falsifier(
    "FALSIFY-APR-DISTILL-TRAIN-006",
    level="live",
    controls=[
        Control("the teacher is run in secret", plant=teacher_run_in_secret, breaks="teacher_opened"),
        Control("fingerprints are not compared", plant=any_cache_will_do, breaks="foreign_cache_refused"),
        Control("no cache, no teacher, no word", plant=missing_cache_means_no_teacher, breaks="missing_cache_refused"),
    ],
    attacks=["pv.distill.train.train", "pv.distill.cache.LogitsCache"],
    data=["falsifiers/_distill.py"],
)
def train_uses_its_own_cache_only(context: Any) -> list[Measurement]:
    """Train beside the teacher and see what is opened, then without it; offer a missing and a foreign cache."""
    from pv.distill import student

    ground = ground_of(context)
    teacher = context.scratch / "teacher"
    shutil.copytree(ground.teacher, teacher)
    config = ground.config(context.scratch / "own", teacher=str(teacher))
    must(run_distill(config, "precompute"))
    cache = context.scratch / "own/out/teacher_logits"
    opened: list[Path] = []
    healthy = student.open_model
    with patched(student, "open_model", lambda path: opened.append(path) or healthy(path)):
        must(run_distill(config, "train"))
    shutil.rmtree(teacher)
    alone = ground.config(context.scratch / "alone", teacher=str(teacher))
    shutil.copytree(cache, context.scratch / "alone/out/teacher_logits")
    trained = run_distill(alone, "train")
    missing = run_distill(ground.config(context.scratch / "none"), "train")
    strangers = ground.config(context.scratch / "foreign", train_on="teacher")
    shutil.copytree(cache, context.scratch / "foreign/out/teacher_logits")
    foreign = run_distill(strangers, "train")
    return [
        measure("trained_without_teacher", trained.code == 0 and not trained.crashed, unit="bool"),
        measure("teacher_opened", len([path for path in opened if path.name == "teacher"]), unit="times"),
        measure("missing_cache_refused", refused(missing, "precompute"), unit="bool"),
        measure("foreign_cache_refused", refused(foreign, "part: expected"), unit="bool"),
    ]


def refused(ran: Ran, naming: str) -> bool:
    """Not zero, no crash, and the sentence names what is wrong."""
    return ran.code != 0 and not ran.crashed and naming in ran.stderr


# --- 007 and 008: the contract itself, and its three surfaces ---------------------------------------------------------

CONTRACT = "contracts/apr-cli-distill-train-v1.yaml"


@contextlib.contextmanager
def misspelt_contract(context: Any) -> Iterator[None]:
    """The check is pointed at a copy whose first `prediction` is misspelt."""
    text = (context.project / CONTRACT).read_text(encoding="utf-8").replace("    prediction:", "    predicton:", 1)
    folder = context.scratch / "planted"
    folder.mkdir()
    (folder / Path(CONTRACT).name).write_text(text, encoding="utf-8")
    with patched(Attack, "contract", folder / Path(CONTRACT).name):
        yield


class Attack:
    """What a control may point elsewhere."""

    contract: Path | None = None  # None: the project's own
    comparison: Path | None = None  # None: the project's own test of the registry
    tamper: Tamper | None = None  # how a finished cache is changed before a student is trained on it


@falsifier(
    "FALSIFY-APR-DISTILL-TRAIN-007",
    level="live",
    controls=[Control("a misspelt key", plant=misspelt_contract, breaks="errors")],
    attacks=["pv.cli.validate.validate"],
)
def the_contract_is_valid(context: Any) -> list[Measurement]:
    """`pv validate` as a user runs it; findings about statuses (PV4xx) are left aside, as they would be circular."""
    ran = context.run_pv(
        "validate", "--output-format", "json", "--no-cache", str(Attack.contract or context.project / CONTRACT)
    )
    told = json.loads(ran.stdout)
    errors = [d for d in told["diagnostics"] if d["severity"] == "error" and not d["code"].startswith("PV4")]
    return [
        measure("errors", len(errors), unit="findings"),
        measure("files_checked", told["summary"]["contracts"], unit="files"),
    ]


@contextlib.contextmanager
def option_nobody_registered(context: Any) -> Iterator[None]:
    """`pv distill` has an option that the registry does not know."""
    import click

    from pv.cli.distill import distill

    distill.params.append(click.Option(["--warm-start"]))
    try:
        yield
    finally:
        distill.params.pop()


@contextlib.contextmanager
def test_that_compares_nothing(context: Any) -> Iterator[None]:
    """The test module that should compare both trees is empty."""
    file = context.scratch / "test_registry.py"
    file.write_text("def test_nothing():\n    assert True\n", encoding="utf-8")
    with patched(Attack, "comparison", file):
        yield


def compares_both_trees(file: Path) -> bool:
    """Whether some test of the file asserts on the difference of the live and the registered tree."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            called = {n.func.id for n in ast.walk(node) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
            called |= {
                n.func.attr for n in ast.walk(node) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)
            }
            asserts = any(isinstance(n, ast.Assert) for n in ast.walk(node))
            if asserts and {"difference", "live_tree", "registered_tree"} <= called:
                return True
    return False


@falsifier(
    "FALSIFY-APR-DISTILL-TRAIN-008",
    level="live",
    controls=[
        Control("an option nobody registered", plant=option_nobody_registered, breaks="options_that_differ"),
        Control("a test that compares nothing", plant=test_that_compares_nothing, breaks="test_compares"),
    ],
    attacks=["pv.cli.distill.distill"],
    data=["falsifiers/_cli.py", "tests/cli/test_registry.py"],
)
def three_surfaces_agree(context: Any) -> list[Measurement]:
    """The live click command, the registry contract's entry, and the test that holds them together."""
    name = "pv distill"
    live = set(sum(live_tree()[name], ()))
    registered = set(sum(registered_tree(context.project)[name], ()))
    test = Attack.comparison or context.project / "tests/cli/test_registry.py"
    if live ^ registered:
        context.note(f"differ: {', '.join(sorted(live ^ registered))}")
    return [
        measure("options_that_differ", len(live ^ registered), unit="options", n=len(live | registered)),
        measure("options_compared", len(live & registered), unit="options", n=len(live | registered)),
        measure("test_compares", compares_both_trees(test), unit="bool"),
    ]


# --- 009: it is worth it ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def taught_one_late(context: Any) -> Iterator[None]:
    with patched(Attack, "tamper", staticmethod(shifted_cache)):
        yield


@contextlib.contextmanager
def taught_by_strangers(context: Any) -> Iterator[None]:
    with patched(Attack, "tamper", staticmethod(strangers_cache)):
        yield


@falsifier(
    "FALSIFY-APR-DISTILL-TRAIN-009",
    level="live",
    controls=[
        Control("cache shifted by one position", plant=taught_one_late, breaks="mean_margin"),
        Control("cache of other sequences", plant=taught_by_strangers, breaks="mean_margin"),
    ],
    attacks=["pv.distill.train.train", "pv.distill.precompute.precompute"],
    data=["falsifiers/_distill.py", "falsifiers/_distill_margins.py"],
    cost="slow",
    timeout=1500,
)
def distillation_beats_scratch(context: Any) -> list[Measurement]:
    """Three paired seeds; at the full size every learning rate of the grid, judged at the best one for scratch."""
    size = SIZES[context.cell.subject]
    found = margins(context, size, Attack.tamper)
    context.note(f"teacher's validation loss {found.teacher:.4f}; T = {size.temperature:g}, alpha = {size.alpha:g}")
    for rate, seed in sorted(found.scratch):
        pair = f"scratch {found.scratch[rate, seed]:.4f}, distilled {found.distilled[rate, seed]:.4f}"
        context.note(f"rate {rate:g}, seed {seed}: {pair}")
    by_seed = found.by_seed()
    context.note("margins at rate {:g}: {}".format(found.best_rate, ", ".join(f"{margin:+.4f}" for margin in by_seed)))
    return [
        measure("smallest_margin", min(by_seed), unit="nat/token", n=len(by_seed)),
        measure("mean_margin", sum(by_seed) / len(by_seed), unit="nat/token", n=len(by_seed)),
    ]


# --- 010: every setting arrives ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def alpha_stays_at_its_default(context: Any) -> Iterator[None]:
    from pv.distill.student import Student

    healthy = Student.forward

    def deaf(self: Any, tokens: Any, labels: Any, teacher: Any, alpha: float, *rest: Any) -> Any:
        return healthy(self, tokens, labels, teacher, 0.7, *rest)

    with patched(Student, "forward", deaf):
        yield


@contextlib.contextmanager
def rate_stays_at_its_default(context: Any) -> Iterator[None]:
    from pv.distill import train as module

    healthy = module.learning_rate

    def deaf(config: Any, step: int, steps: int) -> float:
        return healthy(config.model_copy(update={"learning_rate": 1e-3}), step, steps)

    with patched(module, "learning_rate", deaf):
        yield


@contextlib.contextmanager
def adapters_without_their_scale(context: Any) -> Iterator[None]:
    from pv.distill import train as module

    healthy = module.Student

    def deaf(*arguments: Any, **settings: Any) -> Any:
        return healthy(*arguments, **{**settings, "lora_alpha": 16.0})

    with patched(module, "Student", deaf):
        yield


@falsifier(
    "FALSIFY-APR-DISTILL-TRAIN-010",
    level="live",
    controls=[
        Control("alpha stays at its default", plant=alpha_stays_at_its_default, breaks="settings_arrived"),
        Control("the rate stays at its default", plant=rate_stays_at_its_default, breaks="settings_arrived"),
        Control("adapters without their scale", plant=adapters_without_their_scale, breaks="settings_arrived"),
    ],
    attacks=["pv.cli.distill.distill", "pv.distill.train.train"],
    data=["falsifiers/_distill.py"],
)
def every_setting_arrives(context: Any) -> list[Measurement]:
    """Ten settings on the command line, none at its default; what the loss and the optimiser were handed is read."""
    from pv.distill import student, train

    ground = ground_of(context)
    teacher, start = context.scratch / "teacher-here", context.scratch / "start-here"
    shutil.copytree(ground.teacher, teacher)
    shutil.copytree(ground.teacher, start)
    out = context.scratch / "out-here"
    config = ground.config(context.scratch / "settings")
    options = [
        *("--teacher", str(teacher), "--student", str(start), "--output-dir", str(out)),
        *("--temperature", "2.5", "--alpha", "0.35", "--epochs", "2", "--batch-size", "16"),
        *("--learning-rate", "0.00321", "--lora-rank", "3", "--lora-alpha", "7.5"),
    ]
    seen: dict[str, set[Any]] = {key: set() for key in ("alpha", "temperature", "tokens", "rate", "rank", "opened")}
    steps: list[int] = []
    healthy_loss, healthy_open = student.distillation_loss, student.open_model
    healthy_step = torch.optim.AdamW.step

    def loss(hidden: Any, weight: Any, labels: Any, rows: Any, **settings: Any) -> Any:
        if rows is not None:
            seen["alpha"].add(settings["alpha"])
            seen["temperature"].add(settings["temperature"])
            seen["tokens"].add(settings["denominator"])
        return healthy_loss(hidden, weight, labels, rows, **settings)

    def step(self: Any, *arguments: Any) -> Any:
        seen["rate"].add(self.param_groups[0]["lr"])
        seen["rank"] |= {min(p.shape) for group in self.param_groups for p in group["params"]}
        steps.append(1)
        return healthy_step(self, *arguments)

    spy = lambda path: seen["opened"].add(str(path)) or healthy_open(path)  # noqa: E731 - one line, used once
    with (
        patched(student, "distillation_loss", loss),
        patched(torch.optim.AdamW, "step", step),
        patched(student, "open_model", spy),
    ):
        must(run_distill(config, "precompute", *options))
        opened_teacher = str(teacher) in seen["opened"]
        must(run_distill(config, "train", *options))
    scale = adapter_scale(out, start, train)
    arrived = {
        "teacher": opened_teacher,
        "student": str(start) in seen["opened"],
        "temperature": seen["temperature"] == {2.5},
        "alpha": seen["alpha"] == {0.35},
        "epochs": len(steps) == 2 * (64 // 16),
        "batch_size": seen["tokens"] == {16 * 32},
        "learning_rate": math.isclose(max(seen["rate"], default=0.0), 0.00321, rel_tol=1e-9),
        "lora_rank": seen["rank"] == {3},
        "lora_alpha": math.isclose(scale, 7.5 / 3, rel_tol=1e-3),
        "output_dir": (out / "student" / "model.safetensors").is_file(),
    }
    if lost := [name for name, there in arrived.items() if not there]:
        context.note(f"did not arrive: {', '.join(lost)}")
    return [measure("settings_arrived", sum(arrived.values()), unit="settings", n=len(arrived))]


def adapter_scale(out: Path, start: Path, train: Any) -> float:
    """By how much the adapters' product was scaled: read from the merged weights and the last checkpoint's adapters."""
    from safetensors.torch import load_file

    newest = max((out / "checkpoints").glob("step-*"))
    state = load_file(newest / "state.safetensors")
    product = state["w/layers__0__q__up"] @ state["w/layers__0__q__down"]
    name = "model.layers.0.self_attn.q_proj.weight"
    moved = load_file(out / "student/model.safetensors")[name] - load_file(start / "model.safetensors")[name]
    return float((moved * product).sum() / (product * product).sum())


# --- 011: a student that is no local model ----------------------------------------------------------------------------


@contextlib.contextmanager
def fresh_student_instead(context: Any) -> Iterator[None]:
    """What cannot be loaded is replaced by a new model, without a word."""
    from pv.distill import config as settings
    from pv.distill import train as module
    from pv.distill.config import ConfigError, ShapeConfig

    healthy, anchored = module.starting_point, settings._anchored
    shape = ShapeConfig(hidden=32, layers=1, heads=2, kv_heads=1, ffn=64)

    def lenient(config: Any, vocab: int) -> Any:
        try:
            return healthy(config, vocab)
        except ConfigError:
            return healthy(config.model_copy(update={"student": shape}), vocab)

    def lenient_anchor(config: Any, folder: Path) -> Any:
        try:
            return anchored(config, folder)
        except ConfigError:
            return anchored(config.model_copy(update={"student": shape}), folder)

    with patched(module, "starting_point", lenient), patched(settings, "_anchored", lenient_anchor):
        yield


@contextlib.contextmanager
def crash_on_a_missing_student(context: Any) -> Iterator[None]:
    from pv.distill import student

    def crash(folder: Path, precision: str) -> Any:
        raise KeyError(folder)

    healthy = student.load_student

    def load(folder: Path, precision: str) -> Any:
        return healthy(folder, precision) if folder.is_dir() else crash(folder, precision)

    with patched(student, "load_student", load):
        yield


@falsifier(
    "FALSIFY-APR-DISTILL-TRAIN-011",
    level="live",
    controls=[
        Control("a new student in place of the missing one", plant=fresh_student_instead, breaks="refused"),
        Control("a crash on a missing student", plant=crash_on_a_missing_student, breaks="tracebacks"),
    ],
    attacks=["pv.distill.student.starting_point", "pv.distill.config.load_config"],
    data=["falsifiers/_distill.py"],
)
def only_a_local_student_is_trained(context: Any) -> list[Measurement]:
    """A hub address, a missing folder and a plain file are offered; then a local model."""
    ground = ground_of(context)
    plain = context.scratch / "a-file.safetensors"
    plain.write_bytes(b"not a model")
    ran = []
    for number, student in enumerate(("hf://Qwen/Qwen2-0.5B", str(context.scratch / "no-such-folder"), str(plain))):
        ran.append(run_distill(ground.config(context.scratch / f"bad-{number}", student=student, alpha=0.0), "train"))
    config = ground.config(context.scratch / "good", student=str(ground.teacher), alpha=0.0)
    before = start_of(config)
    must(run_distill(config, "train"))
    change = largest_relative_change(before, context.scratch / "good/out/student")
    return [
        measure("refused", sum(refused(one, "local model directory") for one in ran), unit="students", n=len(ran)),
        measure("tracebacks", sum(one.crashed for one in ran), unit="times", n=len(ran)),
        measure("local_student_changed", change, n=len(before)),
    ]
