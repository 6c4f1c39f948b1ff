"""`pv evidence export --format in-toto`, `key`, `sign` and `verify`, as a release would use them."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("securesystemslib", reason="the extra `sign` is not installed")


@pytest.fixture
def signed(earned, pv, tmp_path):
    """An export and its envelope, and the keys, outside of the project."""
    assert pv("evidence", "export", "--format", "in-toto", tmp_path / "claims.json").code == 0
    assert pv("evidence", "key", tmp_path / "key.pem", tmp_path / "key.pub").code == 0
    ran = pv("evidence", "sign", tmp_path / "claims.json", "--key", tmp_path / "key.pem")
    assert ran.code == 0, ran.err
    return tmp_path


def test_an_export_says_what_it_says(earned, pv, tmp_path):
    ran = pv("evidence", "export", "--format", "in-toto", tmp_path / "claims.json")
    assert ran.code == 0
    assert "WARNED: 1 passed, 2 warned, 0 failed" in ran.err
    ran = pv("evidence", "verify", tmp_path / "claims.json")
    assert ran.code == 0
    assert "holds of this tree: 3 subjects compared, 3 of 3 claims told of; unsigned: it does not say who" in ran.out
    pv("evidence", "export", "--format", "in-toto", "--id", "FALSIFY-X-001", tmp_path / "one.json")
    assert "1 of 3 claims told of" in pv("evidence", "verify", tmp_path / "one.json").out


def test_a_signed_export_holds_with_its_key_and_this_tree(signed, earned, pv):
    ran = pv("evidence", "verify", signed / "claims.dsse.json", "--key", signed / "key.pub")
    assert ran.code == 0, ran.out + ran.err
    assert "signed with the key of" in ran.out
    path = earned.root / "falsifiers/x_v1.py"
    path.write_text(path.read_text() + "MORE = 1\n")
    ran = pv("evidence", "verify", signed / "claims.dsse.json", "--key", signed / "key.pub")
    assert ran.code == 1
    assert "falsifiers/x_v1.py: expected sha256" in ran.out
    assert "x-v1::FALSIFY-X-001: in passedTests, here in warnedTests" in ran.out
    assert "does not hold of this tree" in ran.out


def test_another_key_and_another_file_do_not_hold(signed, pv):
    pv("evidence", "key", signed / "b.pem", signed / "b.pub")
    ran = pv("evidence", "verify", signed / "claims.dsse.json", "--key", signed / "b.pub")
    assert ran.code == 1
    assert "expected a signature by" in ran.out
    ran = pv("evidence", "verify", signed / "claims.json", "--key", signed / "key.pub")
    assert ran.code == 1
    assert "found a statement without a signature" in ran.out
    (signed / "cut.json").write_bytes((signed / "claims.dsse.json").read_bytes()[:-40])
    ran = pv("evidence", "verify", signed / "cut.json", "--key", signed / "key.pub")
    assert ran.code == 1
    assert "cut" in ran.out


def test_an_envelope_of_one_record_does_not_vouch_for_another(signed, earned, pv):
    """Replayed: the signature is good, and what it signs is not what stands in this tree."""
    (path,) = (earned.root / "evidence/FALSIFY-X-001").glob("*.json")
    assert pv("evidence", "sign", path, "--key", signed / "key.pem", "-o", signed / "record.dsse.json").code == 0
    verify = ("evidence", "verify", signed / "record.dsse.json", "--key", signed / "key.pub")
    assert pv(*verify).code == 0
    path.unlink()
    earned.checks("x-v1", FALSIFY_X_001="return measure('m', 1 - defect)", FALSIFY_X_002="return measure('m', 1)")
    assert pv("falsify", "--id", "FALSIFY-X-001").code == 0
    ran = pv(*verify)
    assert ran.code == 1
    assert "FALSIFY-X-001: expected the record sha256:" in ran.out


def test_private_keys_stay_out_of_the_project(earned, signed, pv):
    ran = pv("evidence", "key", "key.pem", "key.pub")
    assert ran.code == 2
    assert "keep private keys out of the repository" in ran.err
    assert not (earned.root / "key.pem").exists()
    (earned.root / "key.pem").write_bytes((signed / "key.pem").read_bytes())
    assert pv("evidence", "sign", signed / "claims.json", "--key", "key.pem").code == 2
    (signed / "link.pem").symlink_to(earned.root / "key.pem")
    assert pv("evidence", "sign", signed / "claims.json", "--key", signed / "link.pem").code == 2


def test_wrong_calls(signed, earned, pv):
    cases = [
        (["sign", signed / "claims.json"], "expected one of --key and --sigstore"),
        (["sign", signed / "claims.json", "--key", signed / "key.pem", "--sigstore"], "expected one of"),
        (["sign", earned.root / "pyproject.toml", "--key", signed / "key.pem"], "expected JSON"),
        (["sign", signed / "claims.json", "--key", signed / "key.pub"], "expected a private key"),
        (["verify", signed / "claims.dsse.json"], "say with which key"),
        (["key", signed / "key.pem", signed / "new.pub"], "there already, and keys are never overwritten"),
        (["export", "--format", "in-toto", "--id", "NOBODY", signed / "x.json"], "expected ids of claims"),
        (["export", "--format", "in-toto", "--run", "1", signed / "x.json"], "--run chooses records of a bundle"),
    ]
    for arguments, says in cases:
        ran = pv("evidence", *arguments)
        assert (ran.code, says in ran.err) == (2, True), (arguments, ran)
    (signed / "bundle.json").write_text(json.dumps({"verificationMaterial": {}}))
    ran = pv("evidence", "verify", signed / "bundle.json")
    assert ran.code == 2
    assert "say who must have signed it (--identity, --issuer)" in ran.err
