"""`pv evidence`: records shown, carried to another clone, and removed where they belong to nothing."""

from __future__ import annotations

import json
import shutil
import zipfile


def text(house) -> str:
    return (house.root / "contracts" / "x-v1.yaml").read_text()


def digest(house) -> str:
    (path,) = (house.root / "evidence" / "FALSIFY-X-001").glob("*.json")
    return path.stem.rpartition("-")[2]


def test_show_renders_a_finding(earned, pv):
    ran = pv("evidence", "show", digest(earned))
    assert ran.code == 0
    assert ran.out.startswith("SURVIVED  FALSIFY-X-001  on cpu · code, live level\n")
    for words in ("predicted   it holds", "the prediction came true", "m  1  == 1  holds", "broken  caught  breaks m"):
        assert words in ran.out
    assert "again       pv falsify --id FALSIFY-X-001" in ran.out
    as_json = pv("evidence", "show", digest(earned), "--output-format", "json")
    assert json.loads(as_json.out)["predicate"]["verdict"] == "SURVIVED"


def test_show_of_an_unknown_record_is_a_wrong_call(earned, pv):
    assert pv("evidence", "show", "abc").code == 2


def test_records_travel_to_another_clone_and_settle_to_the_same_file(earned, pv, tmp_path, monkeypatch):
    bundle, clone = tmp_path / "b.zip", tmp_path / "clone"
    assert pv("evidence", "export", bundle).code == 0
    shutil.copytree(earned.root, clone, ignore=shutil.ignore_patterns("evidence", ".pv_cache"))
    (clone / "contracts" / "x-v1.yaml").write_text(earned.pristine)
    monkeypatch.chdir(clone)
    ran = pv("evidence", "import", bundle)
    assert ran.code == 0
    assert "1 new, 0 known already" in ran.err
    assert pv("settle").code == 0
    assert (clone / "contracts" / "x-v1.yaml").read_text() == text(earned)
    assert pv("verify").code == 0


def test_a_bad_bundle_is_refused_and_the_others_are_taken(earned, pv, tmp_path):
    good, bad = tmp_path / "good.zip", tmp_path / "bad.zip"
    pv("evidence", "export", good)
    with zipfile.ZipFile(bad, "w") as archive:
        archive.writestr("../evil", b"x")
    ran = pv("evidence", "import", bad, good)
    assert ran.code == 1
    assert "refused" in ran.err
    assert "0 new, 1 known already" in ran.err


def test_export_of_nothing_is_not_success(house, pv, tmp_path):
    assert pv("evidence", "export", tmp_path / "x.zip").code == 5


def test_export_of_one_claim_or_run(earned, pv, tmp_path):
    assert pv("evidence", "export", tmp_path / "x.zip", "--id", "FALSIFY-X-009").code == 5
    assert pv("evidence", "export", tmp_path / "x.zip", "--run", "no such run").code == 5
    assert pv("evidence", "export", tmp_path / "x.zip", "--id", "FALSIFY-X-001").code == 0


def test_prune_removes_what_belongs_to_nothing(earned, pv):
    assert pv("evidence", "prune").out == ""
    path = earned.root / "contracts" / "x-v1.yaml"
    path.write_text(text(earned).replace("FALSIFY-X-001", "FALSIFY-X-009"))
    assert pv("evidence", "prune", "--dry-run").err == "1 file would be removed\n"
    assert pv("evidence", "prune").err == "1 file removed\n"
    assert not (earned.root / "evidence" / "FALSIFY-X-001").exists()
