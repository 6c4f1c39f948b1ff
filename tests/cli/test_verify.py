"""`pv verify`: quiet over an untouched tree, loud over an edited or deleted record."""

from __future__ import annotations


def test_verify_of_an_untouched_tree_is_quiet(earned, pv):
    ran = pv("verify")
    assert ran.code == 0
    assert ran.out.splitlines()[-1] == "1 record re-judged, 1 pointer followed: 0 error(s), 0 warning(s)"


def test_verify_finds_an_edited_and_a_deleted_record(earned, pv):
    (path,) = (earned.root / "evidence" / "FALSIFY-X-001").glob("*.json")
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"value":1}', b'"value":2}', 1))
    ran = pv("verify")
    assert ran.code == 1
    assert "PV451" in ran.out
    path.unlink()
    ran = pv("verify", "--output-format", "json")
    assert ran.code == 1
    assert "PV455" in ran.out
    path.write_bytes(content)
    assert pv("verify").code == 0


def test_verify_of_nothing_is_not_success(house, pv):
    assert pv("verify").code == 5


def test_every_code_of_a_record_can_be_explained(house, pv):
    from pv.evidence.verify import CODES

    for code, row in CODES.items():
        ran = pv("explain", code)
        assert ran.code == 0
        assert ran.out.startswith(f"{code}  {row.title}\n")
