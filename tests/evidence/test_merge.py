"""Two branches from one base, merged by git in either order: after settling there is one state, and it is the same."""

from __future__ import annotations

import subprocess
from dataclasses import replace

import pytest

from pv.contract.vocabulary import Cell, DeviceClass, Status
from pv.evidence import merge as merging
from pv.evidence.retract import retract
from tests.evidence.conftest import TOY, Toy

ONE, TWO = "FALSIFY-TOY-001", "FALSIFY-TOY-002"
CUDA = Cell(DeviceClass.CUDA, "tiny-teacher")
LIST = '  changelog:\n    - "1.0.0: made"\n'
TEXT = "  changelog: |\n    1.0.0: made\n"


class Forked(Toy):
    """A toy in git whose branches are made by functions of a toy."""

    def __init__(self, root, changelog: str = "") -> None:
        super().__init__(root)
        self.write("contracts/toy-v1.yaml", TOY.replace("  references", f"{changelog}  references"))
        self.write(".gitignore", ".pv_cache/\n")
        self.commit()
        self.git("branch", "-M", "base")

    def branch(self, name: str, work) -> None:
        self.git("checkout", "-q", "base")
        self.git("checkout", "-qb", name)
        work(self)
        self.commit()

    def merge(self, into: str, other: str) -> str:
        """`git merge`, then `pv settle`, then the commit. The contract as it then is."""
        self.git("checkout", "-q", "-B", f"{into}-{other}", into)
        self.merge_only(other)
        assert self.settle_merge().left == frozenset()
        text = self.text
        assert not self.settle_merge().told
        assert self.text == text, "settling again changes nothing"
        self.commit()
        self.settle_merge()
        assert self.text == text, "nor does it after the commit"
        return text

    def merge_only(self, other: str) -> int:
        return subprocess.run(
            ["git", "merge", "-q", "--no-ff", "--no-edit", other], cwd=self.root, capture_output=True, check=False
        ).returncode

    def settle_merge(self, *, write: bool = True):
        merge = merging.at_hand(self.project, (), write=write)
        if not merge.left:
            self.settle(merged=merge.merged, write=write)
        return merge


def survives(toy):
    toy.run(ONE)


def breaks(toy):
    toy.write("src/engine/ops.py", "def cosine():\n    return 0.5\n")
    toy.run(ONE, value=0.5)
    toy.write("src/engine/ops.py", "def cosine():\n    return 1.0\n")
    toy.settle()


def breaks_for_good(toy):
    toy.run(ONE, value=0.5)


def second_cell(toy):
    toy.run(TWO)
    toy.run(TWO, cell=CUDA)


def both(toy):
    toy.run(ONE)
    toy.run(TWO)


def elsewhere(toy):
    toy.run(ONE, environment=replace(toy.record().environment, host="ffff"))


def retracted(toy):
    record = toy.run(ONE)
    retract(toy.ledger.store, record.digest, "the fixture was wrong")
    toy.settle()


def loosens(toy):
    toy.run(TWO)
    toy.write("contracts/toy-v1.yaml", toy.text.replace("value: 0.99}", "value: 0.9}").replace("1.1.0", "2.0.0"))


PAIRS = [
    (survives, second_cell, ["FUNCTIONAL", "FUNCTIONAL"], "1.2.0"),
    (survives, breaks_for_good, ["FALSIFIED", "UNBOUND"], "1.2.0"),
    (survives, elsewhere, ["DISCHARGED", "UNBOUND"], "1.2.0"),
    (both, elsewhere, ["DISCHARGED", "PARTIAL_ALGORITHM_LEVEL"], "1.2.0"),
    (survives, retracted, ["FUNCTIONAL", "UNBOUND"], None),
    (both, second_cell, ["FUNCTIONAL", "FUNCTIONAL"], "1.2.0"),
    (survives, loosens, None, "2.1.0"),
    (survives, lambda toy: toy.write("other.txt", "x\n"), ["FUNCTIONAL", "UNBOUND"], "1.1.0"),
]


@pytest.mark.parametrize("changelog", ["", LIST, TEXT], ids=["no changelog", "a list", "a text"])
@pytest.mark.parametrize(
    ("left", "right", "statuses", "version"), PAIRS, ids=lambda each: getattr(each, "__name__", "")
)
def test_the_order_of_merging_does_not_matter(tmp_path, left, right, statuses, version, changelog):
    toy = Forked(tmp_path / "toy", changelog)
    toy.branch("a", left)
    toy.branch("b", right)
    one, other = toy.merge("a", "b"), toy.merge("b", "a")
    assert one == other
    if statuses:
        assert toy.statuses()[:2] == statuses
    if version:
        assert toy.loaded.contract.metadata.version == version
    told = {branch: set(toy.git("ls-tree", "-r", "--name-only", branch, "evidence").split()) for branch in "ab"}
    held = set(toy.git("ls-files", "evidence").split())
    assert held == told["a"] | told["b"], "no record is lost, and none is made"
    assert toy.ledger.problems == ()


def test_three_branches_in_any_order(tmp_path):
    toy = Forked(tmp_path / "toy", LIST)
    for name, work in (("a", survives), ("b", second_cell), ("c", elsewhere)):
        toy.branch(name, work)
    texts = set()
    for first, second, third in ("abc", "cab", "bca"):
        toy.merge(first, second)
        texts.add(toy.merge(f"{first}-{second}", third).replace("1.2.0", "N").replace("1.3.0", "N"))
    heads = {text.partition("falsification_tests")[2] for text in texts}
    assert len(heads) == 1, "the claims are the same in every order; the changelog tells the order"


def test_the_same_conflict_is_a_conflict_for_git(tmp_path):
    """Else the tests above would show nothing of conflicts."""
    toy = Forked(tmp_path / "toy", LIST)
    toy.branch("a", survives)
    toy.branch("b", breaks_for_good)
    toy.git("checkout", "-q", "a")
    assert toy.merge_only("b") == 1
    assert toy.text.count("<<<<<<<") >= 2
    assert "a merge left its conflict here" in toy.loaded.diagnostics[0].message
    assert "`pv settle` resolves" in toy.loaded.diagnostics[0].help


def test_what_people_wrote_on_both_sides_stays_for_people(tmp_path):
    def says(word, work):
        def change(toy):
            work(toy)
            toy.write("contracts/toy-v1.yaml", toy.text.replace("rule: waits", f"rule: {word}"))

        return change

    toy = Forked(tmp_path / "toy", LIST)
    toy.branch("a", says("hopes", survives))
    toy.branch("b", says("fears", elsewhere))
    toy.git("checkout", "-q", "a")
    toy.merge_only("b")
    before = toy.text
    merge = toy.settle_merge()
    assert toy.text == before, "nothing is written while people have to decide"
    line = before.splitlines().index("    rule: hopes")  # the mark stands on the line before
    assert merge.told[0].startswith(f"{toy.contract_path}:{line}: both sides changed what people write")
    assert "in what pv writes can stay as they are" in merge.told[0]
    start, end = before.rindex("<<<<<<<"), before.rindex("    prediction: it will do")
    toy.write("contracts/toy-v1.yaml", before[:start] + "    rule: hopes and fears\n" + before[end:])
    assert toy.settle_merge().left == frozenset()
    assert toy.claim("FALSIFY-TOY-003").rule == "hopes and fears"
    assert toy.claim(ONE).status is Status.DISCHARGED


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ('    algorithm_evidence: {notes: "mine"}\n', '    algorithm_evidence: {notes: "yours"}\n'),
        ('    functional_evidence: ["seen by me"]\n', '    functional_evidence: ["seen by you"]\n'),
        ('    evidence: ["a note of mine"]\n', '    evidence: ["a note of yours"]\n'),
    ],
)
def test_foreign_words_in_pvs_places_are_peoples(tmp_path, ours, theirs):
    toy = Forked(tmp_path / "toy")

    def adds(text):
        where = "    status: UNBOUND\n    # about the second\n"
        return lambda toy: toy.write("contracts/toy-v1.yaml", toy.text.replace(where, text + where))

    toy.branch("a", adds(ours))
    toy.branch("b", adds(theirs))
    toy.git("checkout", "-q", "a")
    assert toy.merge_only("b") == 1
    assert toy.settle_merge().left == {toy.contract_path}
    assert ours in toy.text
    assert theirs in toy.text


def test_a_clean_merge_of_two_bumps_gets_the_bump_that_the_gate_demands(tmp_path):
    """Both branches wrote 1.1.0 and git sees no conflict; yet 1.1.0 would name three different texts."""
    toy = Forked(tmp_path / "toy")
    toy.branch("a", survives)
    toy.branch("b", second_cell)
    toy.git("checkout", "-q", "a")
    assert toy.merge_only("b") == 0
    assert toy.loaded.contract.metadata.version == "1.1.0"
    assert toy.statuses()[:2] == ["FUNCTIONAL", "FUNCTIONAL"]
    toy.settle_merge(write=False)
    assert toy.loaded.contract.metadata.version == "1.1.0"
    toy.settle_merge()
    assert toy.loaded.contract.metadata.version == "1.2.0"


def test_without_git_markers_are_resolved_all_the_same(tmp_path):
    toy = Toy(tmp_path / "toy")
    toy.run(ONE)
    ours = toy.text
    toy.write(
        "contracts/toy-v1.yaml",
        ours.replace(
            "    status: FUNCTIONAL\n",
            "<<<<<<< mine\n    status: FUNCTIONAL\n=======\n    status: UNBOUND\n>>>>>>> yours\n",
        ),
    )
    merge = merging.at_hand(toy.project, (), write=True)
    assert merge.told == (f"{toy.contract_path}: 1 conflict in what pv writes, resolved",)
    toy.settle(merged=merge.merged)
    assert toy.text == ours.replace("1.1.0", "1.2.0"), "without git nobody knows what version was seen"
