"""`pv settle`: what the records support, written, refused, or only said."""

from __future__ import annotations


def text(house) -> str:
    return (house.root / "contracts" / "x-v1.yaml").read_text()


def test_settle_writes_what_the_records_support(earned, pv):
    path = earned.root / "contracts" / "x-v1.yaml"
    path.write_text(text(earned).replace("status: FUNCTIONAL", "status: DISCHARGED"))
    check = pv("settle", "--check")
    assert check.code == 1
    assert "-    status: DISCHARGED\n+    status: FUNCTIONAL\n" in check.out
    assert "status: DISCHARGED" in text(earned)
    ran = pv("settle")
    assert ran.code == 0
    assert "FALSIFY-X-001  DISCHARGED -> FUNCTIONAL" in ran.out
    assert ran.err == "1 of 1 contract written\n"
    again = pv("settle", "--check")
    assert (again.code, again.out) == (0, "")


def test_settle_refuses_what_is_unsafe_and_prints_the_lines(earned, pv):
    path = earned.root / "contracts" / "x-v1.yaml"
    path.write_text(text(earned).replace("status: FUNCTIONAL", "status: &s DISCHARGED"))
    ran = pv("settle")
    assert ran.code == 3
    assert "FALSIFY-X-001 was not written: the value has the anchor 's'" in ran.out
    assert "+    status: FUNCTIONAL" in ran.out


def test_settle_adopts_a_foreign_status_only_when_told(earned, pv):
    path = earned.root / "contracts" / "x-v1.yaml"
    path.write_text(text(earned).replace("status: FUNCTIONAL", "status: VERIFIED"))
    assert pv("settle").code == 3
    assert pv("settle", "--adopt").code == 0
    assert "status: FUNCTIONAL" in text(earned)


def test_settle_of_nothing_is_not_success(house, pv):
    assert pv("settle").code == 5
    (house.root / "contracts" / "bad.yaml").write_text("metadata: 3\n")
    ran = pv("settle")
    assert ran.code == 5
    assert "not a sound contract" in ran.err


def test_settle_says_when_a_file_cannot_be_replaced(earned, pv, monkeypatch):
    path = earned.root / "contracts" / "x-v1.yaml"
    path.write_text(text(earned).replace("status: FUNCTIONAL", "status: UNBOUND"))
    monkeypatch.setattr("pv.document.files.os.replace", _fail)
    ran = pv("settle")
    assert ran.code == 3
    assert "was not written" in ran.err
    assert "status: UNBOUND" in text(earned)


def _fail(*_):
    raise PermissionError(13, "Permission denied")


def conflicting(house, ours, theirs):
    path = house.root / "contracts" / "x-v1.yaml"
    text = path.read_text()
    assert ours in text
    path.write_text(text.replace(ours, f"<<<<<<< HEAD\n{ours}=======\n{theirs}>>>>>>> other\n", 1))
    return path


def test_a_conflict_in_what_pv_writes_is_resolved(earned, pv):
    before = (earned.root / "contracts" / "x-v1.yaml").read_text()
    path = conflicting(earned, "    status: FUNCTIONAL\n", "    status: UNBOUND\n")
    marked = path.read_text()
    assert "a merge left its conflict here" in pv("validate").out
    for option in ("--check", "--dry-run"):
        ran = pv("settle", option)
        assert ran.code == (option == "--check")
        assert "contracts/x-v1.yaml: 1 conflict in what pv writes, resolved" in ran.err
        assert path.read_text() == marked
    assert pv("settle").code == 0
    assert [line for line in path.read_text().splitlines() if "version" not in line] == [
        line for line in before.splitlines() if "version" not in line
    ]
    assert pv("settle", "--check").code == 0


def test_a_conflict_in_what_people_write_is_theirs(earned, pv):
    path = conflicting(earned, "    rule: a rule\n", "    rule: another\n")
    marked = path.read_text()
    ran = pv("settle")
    assert ran.code == 1
    line = marked.splitlines().index("<<<<<<< HEAD") + 1
    assert (
        f"contracts/x-v1.yaml:{line}: both sides changed what people write: edit it, then `pv settle` again" in ran.err
    )
    assert path.read_text() == marked
