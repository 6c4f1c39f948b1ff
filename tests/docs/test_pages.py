"""Every command of every page is run, or says why not; what a page shows is what comes."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from tests.docs import following, pages
from tests.docs.following import BrokenPromiseError, Done, Reader, hold, present
from tests.docs.pages import REASONS, ROOT, Command, Mark, PageError, Step, blocks, steps
from tests.docs.worlds import WORLDS

PAGES = [str(path) for path in pages.pages()]


def steps_of(name: str) -> tuple[Step, ...]:
    return steps((ROOT / name).read_text("utf-8"), name)


def those_with(mark: Mark) -> list[str]:
    return [name for name in PAGES if any(step.mark is mark for step in steps_of(name))]


def with_commands() -> list[str]:
    return [
        name for name in PAGES if any(step.commands and step.mark in {Mark.QUICK, Mark.GPU} for step in steps_of(name))
    ]


@pytest.mark.parametrize("name", with_commands())
def test_a_page_does_what_it_says(name, tmp_path):
    reader = Reader(tmp_path)
    reader.follow(ROOT / name)
    asked = [step for step in steps_of(name) if step.mark in {Mark.QUICK, Mark.GPU}]
    here = [step for step in asked if step.mark is Mark.QUICK or not present(step.detail)]
    done = reader.ran.total() + reader.blocked + reader.left_out.total()
    assert done == sum(len(step.commands) for step in here)
    told(name, reader)


@pytest.mark.slow
@pytest.mark.parametrize("name", those_with(Mark.SLOW))
def test_the_slow_part_of_a_page_does_what_it_says(name, tmp_path):
    reader = Reader(tmp_path)
    reader.follow(ROOT / name, upto=Mark.SLOW)
    told(name, reader)
    assert reader.ran[Mark.SLOW] > 0


@pytest.mark.gpu
@pytest.mark.parametrize("name", those_with(Mark.GPU))
def test_the_gpu_part_of_a_page_does_what_it_says(name, tmp_path):
    reader = Reader(tmp_path)
    reader.follow(ROOT / name, upto=Mark.GPU)
    missing = {step.detail for step in steps_of(name) if step.mark is Mark.GPU and not present(step.detail)}
    if missing and not os.environ.get("PV_REQUIRE_GPU"):
        pytest.skip(f"{name} was seen to be BLOCKED only; not here: {', '.join(sorted(missing))}")
    assert not missing
    assert reader.ran[Mark.GPU] > 0


def told(name: str, reader: Reader) -> None:
    """Skip aloud where a page needs what an extra or a driver brings. The rest of it was run."""
    if reader.left_out:
        lacking = ", ".join(f"{what} ({count} commands)" for what, count in sorted(reader.left_out.items()))
        pytest.skip(f"{name}: not run for want of {lacking}")


def test_every_block_of_commands_is_run_or_says_why_not(capsys):
    census = Counter(
        (step.mark, step.detail) for name in PAGES for step in steps_of(name) for _ in step.commands or [None][:0]
    )
    total = census.total()
    with capsys.disabled():
        print(f"\ndocs: {total} commands on {len(PAGES)} pages")
        for (mark, detail), count in sorted(census.items()):
            print(f"  {count:4} {mark}{f' ({detail})' if detail else ''}")
    assert census[Mark.QUICK, ""] > total / 2
    assert {detail for mark, detail in census if mark is Mark.NEVER} <= set(REASONS)


def hidden(text: str, name: str = "page") -> list[str]:
    """Commands in blocks that nothing runs, because they are called neither `console` nor `sh`."""
    others = [
        block for block in blocks(text, name) if block.language not in {*pages.COMMANDS, "python", "yaml", "toml"}
    ]
    lines = [(block.line, line) for block in others for line in block.text.splitlines()]
    return [f"{name}:{at}: {line}" for at, line in lines if line.startswith(("$ ", "pv ", "python ", "make "))]


@pytest.mark.parametrize("name", PAGES)
def test_no_command_hides_in_a_block_of_another_language(name):
    assert hidden((ROOT / name).read_text("utf-8"), name) == [], "call the block `console`"


def test_a_command_that_hides_is_seen():
    assert hidden("```\npv validate\n```\n\n```text\nout\n```\n") == ["page:1: pv validate"]


@pytest.mark.parametrize("name", PAGES)
def test_worlds_are_known(name):
    assert {step.world for step in steps_of(name)} <= set(WORLDS)


def test_reasons_are_all_used():
    used = {step.detail for name in PAGES for step in steps_of(name) if step.mark is Mark.NEVER}
    assert used == set(REASONS)


# ------------------------------------------------------------------------------------- the reader of pages itself


PAGE = """\
<!-- file: a.txt -->
```
one
```

```console
$ cat a.txt
one
```
<!-- replace: a.txt: "one" -> "two" -->

1. In a list:

   ```console
   $ cat a.txt | tr o 0   # exit 0
   tw0
   $ false   # exit 1
   ```

<!-- not run: needs several hosts -->
```sh
sleep 1000
```
"""


def followed(text: str, tmp_path: Path, upto: Mark = Mark.QUICK) -> Reader:
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "page.md").write_text(text)
    reader = Reader(tmp_path / "scratch")
    reader.scratch.mkdir()
    reader.follow(tmp_path / "page.md", upto=upto)
    return reader


def test_a_page_is_followed(tmp_path):
    reader = followed(PAGE, tmp_path)
    assert reader.ran == {Mark.QUICK: 3}
    assert (tmp_path / "scratch/empty/a.txt").read_text() == "two\n"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("one\n```\n<!--", "other\n```\n<!--", "other"),
        ("exit 1", "exit 2", "expected exit 2, came 1"),
        ("tw0", "tw9", "tw9"),
        ('"one" -> ', '"three" -> ', "'three' is not in a.txt"),
    ],
)
def test_a_page_that_promises_too_much_is_seen(old, new, message, tmp_path):
    assert PAGE.count(old) == 1
    with pytest.raises(BrokenPromiseError, match=message):
        followed(PAGE.replace(old, new), tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- not run: no time -->\n```sh\nls\n```\n", "expected a reason of"),
        ("<!-- not run: needs several hosts -->\nwords\n", "expected a block after"),
        ("<!-- slow -->\n```python\n1\n```\n", "is about a block of commands"),
        ("```sh\nls\n", "expected the end of the block"),
        ("```console\nout\n$ ls\n", "expected the end of the block"),
        ("```console\nout\n$ ls\n```\n", "expected a command before the output"),
        ("<!-- replace: a -> b -->\n", "expected `replace: PATH"),
        ("<!-- slow -->\n", "found the end"),
    ],
)
def test_a_page_that_cannot_be_followed_is_refused(text, message):
    with pytest.raises(PageError, match=message):
        steps(text)


@pytest.mark.parametrize(
    ("shown", "came"),
    [
        (("a", "c"), "a\nb\nc\n"),  # something stood between
        (("a", "...", "b", "...", "a"), "a\nb\n"),  # no second a
        (("b", "...", "a"), "a\nb\n"),  # another order
        (("x ... z",), "x y\nz\n"),  # on one line
        (("3 claims",), "4 claims\n"),
    ],
)
def test_output_that_differs_is_seen(shown, came):
    with pytest.raises(BrokenPromiseError):
        hold(Command("cat", 0, shown), Done(0, came, ""))


@pytest.mark.parametrize(
    ("shown", "out", "err"),
    [
        (("a", "...", "c"), "a\nb\nc\n", ""),
        (("x … z", "took 0.4 s"), "x y z\ntook 12 s\n", ""),
        (("talk", "...", "data"), "data\n", "talk\n"),
        (("a",), "before\n  a after\n", ""),
    ],
)
def test_output_that_agrees_passes(shown, out, err):
    hold(Command("cat", 0, shown), Done(0, out, err))


@pytest.mark.parametrize("name", sorted(WORLDS))
def test_a_world_is_a_folder(name, tmp_path):
    WORLDS[name](tmp_path / name)
    assert (tmp_path / name).is_dir()


def test_without_its_card_a_command_must_be_blocked(tmp_path, monkeypatch):
    monkeypatch.setattr(following, "present", lambda _: False)
    block = "<!-- gpu: cuda -->\n```sh\necho '{}'; exit {}\n```\n"
    reader = followed(block.format("BLOCKED: no NVIDIA device", 4), tmp_path / "a")
    assert (reader.blocked, reader.ran) == (1, {})
    for said, code in (("an answer", 0), ("an answer", 4), ("BLOCKED", 3)):
        with pytest.raises(BrokenPromiseError, match="expected exit 4 and what is missing"):
            followed(block.format(said, code), tmp_path / f"{said}{code}")


def test_with_its_card_a_command_is_run_under_its_mark_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(following, "present", lambda _: True)
    block = "<!-- gpu: cuda -->\n```console\n$ echo an answer\nan answer\n```\n"
    assert followed(block, tmp_path / "quick").ran == {}
    assert followed(block, tmp_path / "gpu", upto=Mark.GPU).ran == {Mark.GPU: 1}


def test_what_needs_an_extra_is_left_out_and_counted(tmp_path):
    block = "<!-- needs: {} -->\n```sh\nexit 7\n```\n"
    assert followed(block.format("no_such_module"), tmp_path / "a").left_out == {"no_such_module": 1}
    with pytest.raises(BrokenPromiseError, match="came 7"):
        followed(block.format("pytest"), tmp_path / "b")


@pytest.mark.parametrize(
    "line", ["pip install x", "true && make run", "python -m pip install x", "sudo apt-get install x"]
)
def test_nothing_is_installed(line, tmp_path):
    with pytest.raises(BrokenPromiseError, match="would change this machine"):
        followed(f"```sh\n{line}\n```\n", tmp_path)


def test_a_word_that_is_no_installation_is_run(tmp_path):
    assert followed("```sh\necho pv model make\n```\n", tmp_path).ran == {Mark.QUICK: 1}
