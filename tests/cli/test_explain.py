"""`pv explain`: a rule, a name of the reference, a claim; and near names for what there is not."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from pv.cli.main import pv as program
from pv.rules.table import RULES
from tests.contract.samples import SOUND


def explain(*arguments: str):
    return CliRunner().invoke(program, ["explain", *arguments])


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "contracts").mkdir()
    (tmp_path / "falsifiers").mkdir()
    (tmp_path / "pyproject.toml").write_text('[tool.pv]\nprofile = "strict"\n')
    (tmp_path / "contracts" / "x-v1.yaml").write_text(SOUND)
    (tmp_path / "falsifiers" / "x_v1.py").write_text(
        "from pv.falsify import Control, falsifier\n\n\n"
        '@falsifier("FALSIFY-SOUND-001", level="live", attacks=["pkg.ops.gap"],\n'
        '           controls=[Control("shifts a", plant=None, breaks="gap")])\n'
        "def gap(ctx): ...\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_every_rule_can_be_explained(rule):
    done = explain(rule.code)
    assert done.exit_code == 0
    assert rule.title in done.output
    assert rule.fix.split()[0] in done.output


def test_names_of_the_reference_lead_to_ours():
    assert explain("SCHEMA-019").output.startswith("PV203  ")
    assert explain("provability-001").output.startswith("PV601  ")
    assert "PV211  " in explain("SCHEMA-007").output


def test_codes_of_other_rooms_are_explained_too():
    for code in ("PV350", "PV352", "PV450"):
        assert explain(code).exit_code == 0, code


def test_every_code_that_pv_can_print_is_explained():
    import re
    from pathlib import Path

    import pv

    package = Path(pv.__file__).parent
    written = {
        code for path in package.rglob("*.py") for code in re.findall(r"\"(PV[1-7]\d\d)\"", path.read_text("utf-8"))
    }
    unexplained = sorted(code for code in written if explain(code).exit_code != 0)
    assert len(written) > 80
    assert unexplained == []


def test_a_claim_with_its_thresholds_and_its_check(project):
    output = explain("FALSIFY-SOUND-001").output
    for words in (
        "FALSIFY-SOUND-001  a is b", "x-v1 1.2.0, contracts/x-v1.yaml", "prediction: a minus b is 0", "gap <= 0.5",
        "from equations.parity", "falsifiers/x_v1.py:gap", "shifts a (must break gap)", "pkg.ops.gap", "cpu · code",
        "UNBOUND",
    ):  # fmt: skip
        assert words in output, words


def test_a_claim_without_a_check_says_so(project):
    assert "none registered" in explain("KH-SOUND-001").output


def test_as_data(project):
    rule, claim = json.loads(explain("PV401", "FALSIFY-SOUND-001", "--output-format", "json").output)
    assert (rule["code"], rule["suppress"]) == ("PV401", None)
    assert claim["check"] == "falsifiers/x_v1.py:gap"
    assert claim["thresholds"] == {"gap": "<= 0.5, from equations.parity"}


@pytest.mark.parametrize(
    ("word", "near"),
    [("PV4O1", "PV4"), ("FALSIFY-SOUND-01", "FALSIFY-SOUND-001"), ("zebra", "the codes stand in every")],
)
def test_what_there_is_not_suggests_what_there_is(project, word, near):
    done = explain(word)
    assert done.exit_code == 2
    assert near in done.output


def test_completion_offers_codes_and_claims(project):
    from pv.cli.explain import complete

    assert [str(item.value) for item in complete(None, None, "PV40")][:2] == ["PV401", "PV402"]
    assert [str(item.value) for item in complete(None, None, "falsify-")] == ["FALSIFY-SOUND-001"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell):
    done = CliRunner().invoke(program, ["completion", shell])
    assert done.exit_code == 0
    assert "_PV_COMPLETE" in done.output
    assert "provable" in CliRunner().invoke(program, ["completion", shell, "--program", "provable"]).output
