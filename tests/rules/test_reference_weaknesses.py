"""Where the reference validator is blind (its own list of false passes): pv sees, or does not have the blind spot.

Numbers are those of section F of the facts about the reference. Lines about commands that pv does not have (score,
certify, query) are tested by what stands in their place: a claim, its evidence, a finding.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from pv.cli.main import pv
from pv.contract.load import discover, load_all
from pv.contract.project import Profile, Project
from pv.contract.vocabulary import Status
from pv.rules import table
from pv.rules.facts import Facts
from pv.rules.validation import summary, validate
from tests.contract.samples import KERNEL, SOUND

CLAIM = "FALSIFY-SOUND-001"
STATUS = "    status: UNBOUND\nkani"


def codes(found) -> set[str]:
    return {each.code for each in found}


def with_evidence(block: str) -> str:
    return SOUND.replace(STATUS, f"    algorithm_evidence: {block}\n    status: UNBOUND\nkani", 1)


def run(*arguments: str):
    return CliRunner().invoke(pv, ["validate", *arguments])


def test_1_a_name_of_any_form_is_looked_up_not_only_those_that_begin_with_test(check, tmp_path):
    (tmp_path / "t.py").write_text("def falsifies(): ...\n")
    assert "PV312" not in codes(check(with_evidence("['t.py::falsifies']")))
    assert "PV312" in codes(check(with_evidence("['t.py::my_falsifier']")))


def test_2_a_substring_the_wrong_module_and_a_comment_do_not_resolve(check, tmp_path):
    (tmp_path / "t.py").write_text(
        "def test_tensor(): ...\n# def test_other(): ...\n'''\ndef test_quoted(): ...\n'''\n"
    )
    (tmp_path / "u.py").write_text("def test_elsewhere(): ...\n")
    for name in ("test", "a", "tensor", "test_other", "test_quoted", "test_elsewhere"):
        assert "PV312" in codes(check(with_evidence(f"['t.py::{name}']"))), name


def test_3_a_common_name_resolves_only_in_the_file_that_is_named(check, tmp_path):
    (tmp_path / "t.py").write_text("class Layer:\n    def forward(self): ...\n")
    (tmp_path / "u.py").write_text("def new(): ...\ndef forward(): ...\n")
    listed = "{file_paths: [t.py], function_names: [%s]}"
    assert "PV312" not in codes(check(with_evidence(listed % "Layer.forward")))
    for name in ("forward", "new", "Layer.new", "layer"):
        assert "PV312" in codes(check(with_evidence(listed % name))), name


def test_4_a_silenced_error_does_not_fail_and_a_stricter_call_does(tmp_path):
    path = tmp_path / "x-v1.yaml"
    path.write_text(SOUND.replace("version: 1.2.0", "version: next  # pv: ignore[PV215] decided by the release"))
    strict = ("--profile", "strict", "--ignore", "PV410")  # nobody registered a check in this folder
    assert run(str(path), *strict).exit_code == 0
    path.write_text(SOUND.replace("version: 1.2.0", "version: next"))
    assert run(str(path)).exit_code == 0
    assert run(str(path), "--fail-on", "warning").exit_code == 1
    assert run(str(path), *strict).exit_code == 1
    assert run(str(path), *strict, "--ignore", "PV215").exit_code == 0


def test_5_there_is_more_to_find_in_a_contract_whose_shape_is_sound(check):
    sound_shape = SOUND.replace("[parity, PO-1]", "parity").replace("    obligation: PO-1", "    obligation: parity")
    assert "PV611" in codes(check(sound_shape)), "an obligation that no claim is bound to"


def test_6_a_lock_on_an_unknown_level_is_said(check):
    assert "PV229" in codes(check(SOUND.replace("  kind: schema", "  kind: schema\n  locked_level: extreme")))


def test_7_coverage_is_by_name_not_by_count(check):
    two = SOUND.replace("falsification_tests:\n", "  - {id: PO-2, property: p}\nfalsification_tests:\n")
    second = "  - {id: FALSIFY-SOUND-002, prediction: q, if_fails: f, binds_to: PO-1, test: t, status: UNBOUND}\n"
    enough_by_count = two.replace("kani_harnesses:", second + "kani_harnesses:")
    (found,) = [each for each in check(enough_by_count) if each.code == "PV611"]
    assert "`PO-2`" in found.message


def test_8_a_proof_that_declares_itself_earns_nothing(check):
    text = SOUND.replace("    strategy: exhaustive", "    strategy: exhaustive\n    actually_verified: true")
    assert "PV230" in codes(check(text))
    proven = text.replace(
        "strategy: exhaustive\n    actually_verified: true\n    status: UNBOUND", "status: DISCHARGED"
    )
    assert "PV401" in codes(check(proven, facts={"KH-SOUND-001": Facts(Status.UNBOUND)}))


def test_9_a_declared_harness_that_nobody_wrote_is_found(check):
    found = check(SOUND, facts={"KH-SOUND-001": Facts(Status.UNBOUND, has_check=False)})
    assert [each.where for each in found if each.code == "PV410"] == ["kani_harnesses[0].id (KH-SOUND-001)"]


def test_10_a_contract_without_tests_is_not_clean_and_its_tests_elsewhere_are_named(check):
    start, end = SOUND.index("falsification_tests:"), SOUND.index("kani_harnesses:")
    for key in ("falsification", "falsification_conditions"):
        text = SOUND[:start] + f"{key}: [{{id: x, prediction: y}}]\n" + SOUND[end:]
        for profile in ("strict", "compat"):
            (found,) = [each for each in check(text, profile) if each.code == "PV606"]
            assert f"`{key}:` is read by nobody" in found.message


def test_11_scores_and_words_that_mean_nothing(check):
    for line, code in (("demand_score: 99999", "PV232"), ("intake_status: banana", "PV204")):
        assert code in codes(check(SOUND.replace("  kind: schema", f"  kind: schema\n  {line}"), "compat")), line


def test_12_a_ledger_without_rows_or_verdicts(check):
    kind = SOUND.replace("kind: schema", "kind: competitive-parity")
    for ledger in ("{rows: []}", "{}", "{rows: [{entry_point: e, measured_on: 2026-01-01, valid_until: 2026-02-01}]}"):
        assert "PV234" in codes(check(kind + f"parity: {ledger}\n", "compat")), ledger


def test_13_an_upstream_that_is_missing_is_told(project):
    write(project, "a-v1", SOUND.replace("  references:", "  depends_on: [gone-v1]\n  references:"))
    write(project, "b-v1", SOUND.replace("-SOUND-", "-B-"))
    found = validate(discover([project.root], project), project)
    assert codes(found.diagnostics) == {"PV702"}


@pytest.mark.parametrize("what", ["nothing", "an empty folder", "a folder of other things", "a path that is not there"])
def test_14_zero_files_is_not_success(tmp_path, what, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "compose.yaml").write_text("services: {}\n")
    arguments = {"nothing": [], "an empty folder": ["empty"], "a folder of other things": ["others"]}.get(
        what, ["gone"]
    )
    done = run(*arguments)
    assert done.exit_code == 5
    assert "0 contracts" in done.output
    assert "valid." not in done.output


def test_15_two_tests_with_one_body_are_one(check):
    copy = "  - {id: FALSIFY-SOUND-002, prediction: a minus b is 0, if_fails: f, binds_to: PO-1, status: UNBOUND}\n"
    assert "PV613" in codes(check(SOUND.replace("kani_harnesses:", copy + "kani_harnesses:")))


def test_16_an_empty_shell_is_seen_through(check):
    shell = SOUND.replace("    test: pytest tests/test_ab.py\n", "")
    assert "PV612" in codes(check(shell, "compat"))
    assert "PV410" in codes(check(shell, facts={CLAIM: Facts(Status.UNBOUND, has_check=False)}))


def test_17_counts_typed_by_hand_are_compared(check):
    for line, code in (
        ("total_obligations: 1, l4_lean_proved: 1", "PV227"),
        ("total_obligations: 9", "PV226"),
    ):
        assert code in codes(check(SOUND + f"verification_summary: {{{line}}}\n")), line


def test_18_what_is_wrong_decides_the_exit_code_and_what_is_missing_is_said(tmp_path):
    path = tmp_path / "x-v1.yaml"
    path.write_text(KERNEL.replace("falsification_tests:", "falsification_testz:"))
    done = run(str(path))
    assert done.exit_code == 1
    assert "did you mean `falsification_tests`?" in done.output


def test_19_a_file_that_cannot_be_parsed_counts_and_odd_keys_are_looked_at(tmp_path):
    (tmp_path / "bad.yaml").write_text("a: [1\n")
    (tmp_path / "odd.yaml").write_text(SOUND + "1: x\ntrue: z\n")
    found = validate(discover([tmp_path], Project(root=tmp_path)), Project(root=tmp_path))
    assert codes(found.diagnostics) == {"PV105", "PV114"}
    assert summary(found).startswith("2 contracts, ")


def test_20_one_bad_file_does_not_silence_the_rules_on_the_others(tmp_path):
    (tmp_path / "a-bad.yaml").write_text("a: [1\n")
    for name in ("b", "c"):
        (tmp_path / f"{name}.yaml").write_text(SOUND.replace("references: [", "depends_on: [gone-v9]\n  references: ["))
    found = validate(discover([tmp_path], Project(root=tmp_path)), Project(root=tmp_path))
    assert {"PV105", "PV701", "PV702"} <= codes(found.diagnostics)


def test_21_a_test_that_matches_nothing_is_not_taken_for_one(check, tmp_path):
    (tmp_path / "levels.py").write_text("def other(): ...\n")
    assert "PV312" in codes(check(with_evidence("['levels.py::levels']")))


# ------------------------------------------------------------------------------------------ inert, doubled, slow


def test_every_rule_in_the_catalogue_can_fire():
    """Fifteen rules of the reference's catalogue are never emitted; here tests/rules/test_table.py fires each."""
    from tests.rules.test_table import ELSEWHERE, EXAMPLES

    assert {example.code for example in EXAMPLES} | ELSEWHERE == set(table.BY_CODE)


def test_there_is_one_walker_and_it_is_the_one_that_validate_uses(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name in ("a.yaml", "deep/b.yml", "deep/er/c.yaml"):
        (tmp_path / name).write_text(SOUND)
    project = Project(root=tmp_path)
    walked = [path.name for path in discover([tmp_path], project).files]
    assert walked == [one.path.name for one in load_all([tmp_path], project)] == ["a.yaml", "b.yml", "c.yaml"]


def test_two_contracts_of_one_stem_are_told_apart_or_told(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same-v1.yaml").write_text(SOUND.replace("-SOUND-", f"-{folder.upper()}-"))
    project = Project(root=tmp_path, profile=Profile.STRICT)
    found = table.check_corpus(load_all([tmp_path], project), project)
    assert codes(found) == {"PV704"}


def test_a_finding_names_the_file_as_it_lies_and_the_line(tmp_path):
    nested = tmp_path / "deep" / "er"
    nested.mkdir(parents=True)
    (nested / "x-v1.yaml").write_text(SOUND.replace("prediction:", "predicton:"))
    assert (
        f"{nested / 'x-v1.yaml'}:{SOUND[: SOUND.index('prediction')].count(chr(10)) + 1}:5  PV203"
        in run(str(tmp_path)).output
    )


def test_a_call_on_a_few_files_leaves_nothing_behind(tmp_path):
    (tmp_path / "x-v1.yaml").write_text(SOUND)
    assert run(str(tmp_path)).exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["x-v1.yaml"]


def write(project: Project, stem: str, text: str) -> Path:
    path = project.root / f"{stem}.yaml"
    path.write_text(text)
    return path
