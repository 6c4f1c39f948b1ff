"""`pv mv`: a new name for a claim or a contract, and nothing that was earned is lost."""

from __future__ import annotations

import subprocess

import pytest

from pv.evidence import carry_out

GOOD = "return measure('m', not defect)"
STATUS = "status: UNBOUND"


@pytest.fixture
def house(house, pv):
    """Two contracts: y-v1 depends on x-v1; the second claim of x-v1 waits for the first. All earned FUNCTIONAL."""
    x = house.contract(
        "x-v1",
        house.claim("FALSIFY-X-001", "requires: {cells: [{device: cpu, subject: code}]}", STATUS + "   # the first"),
        house.claim("FALSIFY-X-002", "precondition: [FALSIFY-X-001]", "test: see FALSIFY-X-001", STATUS),
    )
    x.write_text(x.read_text().replace("  references:", '  changelog:\n    - "1.0.0: made"\n  references:'))
    y = house.contract("y-v1", house.claim("FALSIFY-Y-001", STATUS))
    y.write_text(y.read_text().replace("  references:", "  depends_on: [contracts/x-v1.yaml]\n  references:"))
    y.write_text(y.read_text() + "watch:\n  claims: [FALSIFY-X-001, other]\n")
    house.checks("x-v1", FALSIFY_X_001=GOOD, FALSIFY_X_002=GOOD)
    house.checks("y-v1", FALSIFY_Y_001=GOOD)
    settings = '[tool.pv]\nprofile = "strict"\n\n[tool.pv.scopes]\nALL = [\n  "x-v1",  # first\n  "y-v1",\n]\n'
    (house.root / "pyproject.toml").write_text(settings)
    (house.root / ".gitignore").write_text(".pv_cache/\n__pycache__/\n")
    (house.root / "README.md").write_text("Read FALSIFY-X-001, and FALSIFY-X-0010 too.\n")
    assert pv("falsify", "--all").code == 0
    git(house, "init", "-q")
    commit(house)
    return house


def git(house, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, *arguments], cwd=house.root, capture_output=True, text=True, check=True)
    return done.stdout


def commit(house):
    git(house, "add", "-A")
    git(house, "commit", "-qm", "state")


def changed(house):
    """The lines that git sees changed, without context."""
    diff = git(house, "diff", "-U0").splitlines()
    return [line for line in diff if line[:1] in "+-" and line[:3] not in ("+++", "---")]


def tree(house):
    return {
        path.relative_to(house.root).as_posix(): path.read_bytes()
        for path in sorted(house.root.rglob("*"))
        if path.is_file() and not {".git", ".pv_cache", "__pycache__"} & set(path.parts)
    }


def all_is_well(pv, against="HEAD", claims=3):
    """Nothing stale, nothing to settle, every record belongs to a claim, and the gate is open."""
    ran = pv("validate")
    assert ran.code == 0, ran.out
    assert "PV4" not in ran.out, ran.out
    assert "0 warning(s)" in pv("verify").out
    assert pv("settle", "--check").code == 0
    assert pv("evidence", "prune", "--dry-run").out == ""
    ran = pv("gate", "--against", against)
    assert ran.code == 0, ran.out + ran.err
    assert f"{claims} claims with evidence: 0 stale" in ran.out


def test_a_claim_is_renamed_with_everything_that_names_it(house, pv):
    ran = pv("mv", "FALSIFY-X-001", "FALSIFY-X-PLAIN-001")
    assert ran.code == 0, ran.err
    lines = [
        "-  version: 1.1.0",
        "+  version: 1.2.0",
        '+    - "1.2.0: pv: FALSIFY-X-001 is FALSIFY-X-PLAIN-001 now"',
        "-  - id: FALSIFY-X-001",
        "+  - id: FALSIFY-X-PLAIN-001",
        '+    formerly: ["FALSIFY-X-001"]',
        "-    precondition: [FALSIFY-X-001]",
        "+    precondition: [FALSIFY-X-PLAIN-001]",
        "-  claims: [FALSIFY-X-001, other]",
        "+  claims: [FALSIFY-X-PLAIN-001, other]",
        '-@falsifier("FALSIFY-X-001", level="live", controls=[Control("broken", plant=broken, breaks="m")])',
        '+@falsifier("FALSIFY-X-PLAIN-001", level="live", controls=[Control("broken", plant=broken, breaks="m")])',
    ]
    seen = changed(house)
    for line in lines:
        assert line in seen, line
    assert sum("pv falsify --id" in line for line in seen) == 2, "its own evidence line, before and after"
    assert not any(line.startswith(("-    status", "-    evidence", "-    test")) for line in seen)
    assert "evidence" not in git(house, "status", "--porcelain")
    assert "still mentioned, for you to edit: README.md:1, contracts/x-v1.yaml:" in ran.out
    all_is_well(pv)


def test_a_claim_earns_on_under_its_new_name_and_the_chain_goes_on(house, pv):
    pv("mv", "FALSIFY-X-001", "FALSIFY-X-PLAIN-001")
    house.checks("x-v1", FALSIFY_X_PLAIN_001="return measure('m', 1 if not defect else 0)", FALSIFY_X_002=GOOD)
    assert "stale" in pv("validate").out
    assert pv("falsify", "--stale").code == 0
    assert sorted(path.name for path in (house.root / "evidence").iterdir() if path.name != "logs") == [
        "FALSIFY-X-001",
        "FALSIFY-X-002",
        "FALSIFY-X-PLAIN-001",
        "FALSIFY-Y-001",
    ]
    all_is_well(pv)
    assert "2 records" in pv("trend", "FALSIFY-X-PLAIN-001").out
    assert "2 records" in pv("trend", "FALSIFY-X-001").out
    assert pv("replay", "FALSIFY-X-001").code == 0
    assert "it is called FALSIFY-X-PLAIN-001 now" in pv("falsify", "--id", "FALSIFY-X-001").err
    assert pv("why-not", "FUNCTIONAL", "FALSIFY-X-001").code == 0
    assert pv("explain", "FALSIFY-X-001").out.startswith("FALSIFY-X-PLAIN-001")


def test_a_contract_is_renamed_with_its_module_its_scope_and_its_dependents(house, pv):
    ran = pv("mv", "contracts/x-v1.yaml", "contracts/plain-v1.yaml")
    assert ran.code == 0, ran.err
    assert not (house.root / "contracts/x-v1.yaml").exists()
    assert not (house.root / "falsifiers/x_v1.py").exists()
    assert (house.root / "falsifiers/plain_v1.py").is_file()
    text = (house.root / "contracts/plain-v1.yaml").read_text()
    assert '  version: 1.2.0\n  formerly: ["x-v1"]\n' in text
    assert "x-v1 is plain-v1 now" in text, text[:400]
    assert "falsifiers/plain_v1.py" in text
    assert "falsifiers/x_v1.py" not in text
    assert 'depends_on: ["contracts/plain-v1.yaml"]' in (house.root / "contracts/y-v1.yaml").read_text()
    assert '  "plain-v1",  # first\n' in (house.root / "pyproject.toml").read_text()
    assert "evidence" not in git(house, "status", "--porcelain")
    all_is_well(pv)


def test_a_renamed_contract_is_compared_with_what_it_was(house, pv):
    pv("mv", "contracts/x-v1.yaml", "contracts/plain-v1.yaml")
    ran = pv("diff", "contracts/plain-v1.yaml", "HEAD")
    assert ran.code == 1
    assert "minor  metadata: file renamed: x-v1 -> plain-v1" in ran.out
    assert pv("diff", "contracts/plain-v1.yaml", "HEAD~9").code == 2


def test_renamed_twice_and_back_it_is_what_it_was(house, pv):
    before = tree(house)
    for old, new in (("001", "A"), ("A", "B"), ("B", "001")):
        assert pv("mv", f"FALSIFY-X-{old}", f"FALSIFY-X-{new}").code == 0
        all_is_well(pv)
    for old, new in (("x-v1", "a-v1"), ("a-v1", "b-v1"), ("b-v1", "x-v1")):
        assert pv("mv", f"contracts/{old}.yaml", f"contracts/{new}.yaml").code == 0
        all_is_well(pv)
    after = tree(house)
    assert after.keys() == before.keys()
    assert [name for name in before if before[name] != after[name]] == ["contracts/x-v1.yaml", "contracts/y-v1.yaml"]
    text = after["contracts/x-v1.yaml"].decode()
    assert 'formerly: ["FALSIFY-X-001", "FALSIFY-X-A", "FALSIFY-X-B"]' in text
    assert 'formerly: ["x-v1", "a-v1", "b-v1"]' in text


def test_both_names_change_in_one_branch_and_the_gate_compares_with_the_old_ones(house, pv):
    git(house, "branch", "base")
    pv("mv", "FALSIFY-X-001", "FALSIFY-X-N")
    commit(house)
    pv("mv", "contracts/x-v1.yaml", "contracts/n-v1.yaml")
    commit(house)
    all_is_well(pv, against="base")
    path = house.root / "contracts/n-v1.yaml"
    path.write_text(path.read_text().replace('op: "==", value: 1', 'op: ">=", value: 0', 1))
    ran = pv("gate", "--against", "base", "--no-run")
    assert ran.code == 1
    assert "PV501" in ran.out, "a loosened claim is found through both renames"


def test_without_formerly_a_rename_is_a_removal(house, pv):
    path = house.root / "contracts/x-v1.yaml"
    path.write_text(
        path.read_text().replace("id: FALSIFY-X-001", "id: FALSIFY-X-N").replace("[FALSIFY-X-001]", "[FALSIFY-X-N]")
    )
    ran = pv("diff", "contracts/x-v1.yaml", "HEAD")
    assert "major" in pv("gate", "--against", "HEAD", "--no-run").out, ran.out
    path.write_text(path.read_text().replace("id: FALSIFY-X-N", "id: FALSIFY-X-N\n    formerly: FALSIFY-X-001"))
    ran = pv("gate", "--against", "HEAD", "--no-run")
    assert "major" not in ran.out
    assert "minor bump" in ran.out


def test_dry_run_and_check_write_nothing(house, pv):
    before = tree(house)
    ran = pv("mv", "FALSIFY-X-001", "FALSIFY-X-N", "--dry-run")
    assert ran.code == 0
    assert "+  - id: FALSIFY-X-N\n" in ran.out
    assert '+@falsifier("FALSIFY-X-N"' in ran.out
    ran = pv("mv", "contracts/x-v1.yaml", "contracts/n-v1.yaml", "--dry-run")
    assert "contracts/x-v1.yaml -> contracts/n-v1.yaml\n" in ran.out
    assert pv("mv", "FALSIFY-X-001", "FALSIFY-X-N", "--check").code == 1
    assert tree(house) == before


def test_a_second_call_says_what_the_claim_is_called_now(house, pv):
    assert pv("mv", "FALSIFY-X-001", "FALSIFY-X-N").code == 0
    before = tree(house)
    ran = pv("mv", "FALSIFY-X-001", "FALSIFY-X-M")
    assert ran.code == 2
    assert "it is called FALSIFY-X-N now" in ran.err
    assert tree(house) == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["FALSIFY-X-003", "FALSIFY-X-004"], "did you mean FALSIFY-X-00"),
        (["FALSIFY-X-001", "FALSIFY-X-002"], "contracts/x-v1.yaml has FALSIFY-X-002 already"),
        (["FALSIFY-X-001", "FALSIFY-Y-001"], "contracts/y-v1.yaml has FALSIFY-Y-001 already"),
        (["FALSIFY-X-001", "PO-1"], "has PO-1 already"),
        (["FALSIFY-X-001", "FALSIFY-X-001"], "its name already"),
        (["FALSIFY-X-001", "a b"], "expected an id of letters"),
        (["FALSIFY-X-001", "../x"], "expected an id of letters"),
        (["FALSIFY-X-001", "FALSIFY-X-N", "--in", "contracts/y-v1.yaml"], "expected the id of a claim"),
        (["contracts/x-v1.yaml", "contracts/y-v1.yaml"], "contracts/y-v1.yaml is there already"),
        (["contracts/x-v1.yaml", "elsewhere/x-v1.yaml"], "[tool.pv] contracts finds (contracts/*.yaml)"),
        (["contracts/x-v1.yaml", "contracts/x-v1.txt"], "[tool.pv] contracts finds"),
        (["contracts/z-v1.yaml", "contracts/a-v1.yaml"], "expected a contract of this project"),
        (["contracts/x-v1.yaml", "contracts/taken-v1.yaml"], "falsifiers/taken_v1.py is there already"),
    ],
)
def test_a_wrong_call_says_why_and_writes_nothing(house, pv, arguments, says):
    (house.root / "falsifiers/taken_v1.py").write_text("")
    before = tree(house)
    ran = pv("mv", *arguments)
    assert ran.code == 2
    assert says in ran.err
    assert tree(house) == before


def test_a_name_that_another_claim_had_is_refused(house, pv):
    pv("mv", "FALSIFY-X-001", "FALSIFY-X-N")
    ran = pv("mv", "FALSIFY-X-002", "FALSIFY-X-001")
    assert ran.code == 2
    assert "FALSIFY-X-N was called FALSIFY-X-001" in ran.err
    pv("mv", "contracts/x-v1.yaml", "contracts/n-v1.yaml")
    ran = pv("mv", "contracts/y-v1.yaml", "contracts/x-v1.yaml")
    assert ran.code == 2
    assert "contracts/n-v1.yaml was called x-v1" in ran.err


def test_a_shared_id_is_renamed_in_the_file_that_is_named(house, pv):
    z = house.contract("z-v1", house.claim("FALSIFY-X-001", "blocked_on: [model-1]", "status: BLOCKER_FIXTURE_ABSENT"))
    ran = pv("mv", "FALSIFY-X-001", "FALSIFY-Z-001")
    assert ran.code == 2
    assert "a claim of 2 contracts: contracts/x-v1.yaml, contracts/z-v1.yaml; say which with --in" in ran.err
    assert pv("mv", "FALSIFY-X-001", "FALSIFY-Z-001", "--in", z).code == 0
    assert "FALSIFY-X-001" in (house.root / "contracts/x-v1.yaml").read_text()
    assert pv("status").out.count("FUNCTIONAL") == 3, "the records of x-v1's claim did not go along"


def test_an_id_in_pieces_is_refused_before_anything_is_written(house, pv):
    path = house.root / "falsifiers/x_v1.py"
    path.write_text(path.read_text().replace('@falsifier("FALSIFY-X-001"', '@falsifier("FALSIFY-" "X-001"'))
    before = tree(house)
    ran = pv("mv", "FALSIFY-X-001", "FALSIFY-X-N")
    assert ran.code == 3
    assert "as one literal in the registration" in ran.err
    assert tree(house) == before


def test_a_module_that_another_one_imports_is_not_moved(house, pv):
    path = house.root / "falsifiers/y_v1.py"
    path.write_text("from .x_v1 import broken\n" + path.read_text())
    ran = pv("mv", "contracts/x-v1.yaml", "contracts/n-v1.yaml")
    assert ran.code == 2
    assert "falsifiers/y_v1.py imports x_v1" in ran.err


def test_a_place_that_cannot_be_edited_safely_stops_the_whole(house, pv):
    path = house.root / "contracts/y-v1.yaml"
    path.write_text(path.read_text().replace("claims: [FALSIFY-X-001, other]", "claims: [&a FALSIFY-X-001, *a]"))
    before = tree(house)
    ran = pv("mv", "FALSIFY-X-001", "FALSIFY-X-N")
    assert ran.code == 3
    assert "contracts/y-v1.yaml:" in ran.err
    assert "cannot be edited safely" in ran.err
    assert tree(house) == before


def test_what_was_interrupted_is_finished_by_the_same_call(house, pv, monkeypatch):
    real, calls = carry_out.files.replace_atomically, []

    def dies_at_the_second_file(path, content):
        calls.append(path)
        if len(calls) == 3:  # the journal is the first
            raise KeyboardInterrupt
        real(path, content)

    monkeypatch.setattr(carry_out.files, "replace_atomically", dies_at_the_second_file)
    assert pv("mv", "FALSIFY-X-001", "FALSIFY-X-N").code == 130
    assert (house.root / carry_out.JOURNAL).exists()
    monkeypatch.setattr(carry_out.files, "replace_atomically", real)
    ran = pv("mv", "FALSIFY-X-001", "FALSIFY-X-N")
    assert ran.code == 0, ran.err
    assert "finished what was interrupted: pv mv FALSIFY-X-001 FALSIFY-X-N" in ran.err
    all_is_well(pv)


def test_a_binding_registry_follows(house, pv):
    text = "version: 1.0.0\ntarget_crate: t\nbindings:\n  - {contract: x-v1.yaml, equation: e, status: implemented}\n"
    (house.root / "contracts/binding.yaml").write_text(text)
    assert pv("mv", "contracts/x-v1.yaml", "contracts/n-v1.yaml").code == 0
    assert (house.root / "contracts/binding.yaml").read_text() == text.replace("x-v1", "n-v1")


@pytest.mark.parametrize("renames", [["FALSIFY-X-001", "FALSIFY-X-N"], ["contracts/x-v1.yaml", "contracts/n-v1.yaml"]])
@pytest.mark.parametrize("into", ["renaming", "running"])
def test_renamed_on_one_branch_and_run_on_another(house, pv, renames, into):
    """git joins the two texts (it finds the renamed file itself); the records of the old name count for the new one."""
    path = house.root / "contracts/x-v1.yaml"
    rest = "".join(f"  - note {n}\n" for n in range(60))  # else git takes a file of few lines for another one
    new = house.claim("FALSIFY-X-003", STATUS).replace("\n", "\n    ")
    path.write_text(path.read_text() + f"  - {new}\nnotes:\n{rest}")
    house.checks("x-v1", FALSIFY_X_001="return measure('m', 1 - defect)", FALSIFY_X_002=GOOD, FALSIFY_X_003=GOOD)
    commit(house)
    git(house, "checkout", "-qb", "renaming")
    assert pv("mv", *renames).code == 0
    commit(house)
    git(house, "checkout", "-qb", "running", "HEAD~1")
    assert pv("falsify", "--all").code == 0
    commit(house)
    git(house, "checkout", "-q", into)
    other = "running" if into == "renaming" else "renaming"
    done = subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "merge", "-q", "--no-edit", other],
        cwd=house.root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "CONFLICT (rename" not in done.stdout
    ran = pv("settle")
    assert ran.code == 0, ran.out + ran.err
    commit(house)
    assert not path.exists() or renames[0] == "FALSIFY-X-001"
    assert "<<<<<<<" not in "".join(each.read_text() for each in (house.root / "contracts").glob("*"))
    for against in ("HEAD", "running", "renaming"):
        all_is_well(pv, against, claims=4)
