"""The formats that programs read: valid whatever the findings say, within the limits of who reads them."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pv.diagnostics.model import Diagnostic, Severity, Span, TextEdit
from pv.diagnostics.render import CodeHelp, Format, Summary, render
from pv.diagnostics.sarif import FINGERPRINT
from pv.diagnostics.words import safe

# The text of OASIS, as the test data of cfn-lint 1.58.0 on PyPI has it (MIT-0), indented anew.
SCHEMA = json.loads((Path(__file__).parents[1] / "data" / "sarif-schema-2.1.0.json").read_text())
VALIDATOR = jsonschema.Draft7Validator(SCHEMA, format_checker=jsonschema.FormatChecker())
SPAN = Span(4, 9, 2, 3, 2, 8)

TEXTS = st.text(max_size=20) | st.text(st.sampled_from("a:,%\n\r\t<>&\"'|`\x00\x1b\ud800\ufffe\u2028]]>"), max_size=12)
SPANS = st.none() | st.tuples(st.integers(0, 99), st.integers(0, 99), st.integers(1, 9), st.integers(1, 9)).map(
    lambda n: Span(n[0], n[0] + n[1], n[2], n[3], n[2] + n[1] % 2, n[3] + n[1])
)
DIAGNOSTICS = st.builds(
    Diagnostic,
    st.sampled_from(["PV101", "PV203", "PV401"]),
    st.sampled_from([Severity.ERROR, Severity.WARNING, Severity.INFO]),
    st.sampled_from(["a.yaml", "dir/b c.yaml", "/abs/ü.yaml", "x,y:z%.yaml", "\udcff.yaml"]),
    TEXTS,
    SPANS,
    TEXTS,
    TEXTS,
    TEXTS,
    TEXTS,
    st.lists(st.builds(TextEdit, st.integers(0, 9), st.integers(9, 20), TEXTS), max_size=2).map(tuple),
)


def written(diagnostics: Sequence[Diagnostic], name: str, **options: Any) -> str:
    out = io.StringIO()
    options.setdefault("environ", {})
    sources = options.pop("sources", {"a.yaml": "one\ntwo three\n"})
    render(diagnostics, sources, name, out, **options)
    text = out.getvalue()
    text.encode()  # no format may leave what cannot be written to a file
    return text


def many(count: int, severity: Severity = Severity.ERROR) -> list[Diagnostic]:
    return [Diagnostic("PV203", severity, "a.yaml", f"finding {n}", where=f"claims[{n}]") for n in range(count)]


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="yaml"):
        render([], {}, "yaml", io.StringIO())
    assert {each.value for each in Format} == {"text", "json", "sarif", "github", "junit"}


# --- JSON ---


def test_the_json_shape_is_the_documented_one() -> None:
    finding = Diagnostic("PV203", Severity.ERROR, "a.yaml", "m", SPAN, "e", "f", "w", "h", (TextEdit(1, 2, "x"),))
    summary = Summary("1 contract", {"contracts": 1})
    assert json.loads(written([finding], "json", summary=summary, files=["a.yaml", "b.yaml"], version="1.2")) == {
        "format": "pv-diagnostics",
        "formatVersion": 1,
        "tool": {"name": "pv", "version": "1.2"},
        "diagnostics": [
            {
                "code": "PV203",
                "severity": "error",
                "path": "a.yaml",
                "message": "m",
                "span": {"start": 4, "end": 9, "line": 2, "column": 3, "endLine": 2, "endColumn": 8},
                "expected": "e",
                "found": "f",
                "where": "w",
                "help": "h",
                "edits": [{"start": 1, "end": 2, "text": "x"}],
            }
        ],
        "summary": {"text": "1 contract", "files": 2, "errors": 1, "warnings": 0, "infos": 0, "contracts": 1},
    }


def test_a_summary_may_be_a_mapping_and_hold_what_json_has_not() -> None:
    data = json.loads(written([], "json", summary={"text": "t", "ratio": float("nan"), "by": {"a": [1, float("inf")]}}))
    assert data["summary"]["text"] == "t"
    assert (data["summary"]["ratio"], data["summary"]["by"]) == ("nan", {"a": [1, "inf"]})


@settings(max_examples=60, deadline=None)
@given(st.lists(DIAGNOSTICS, max_size=4))
def test_json_is_json_whatever_is_found(found: list[Diagnostic]) -> None:
    data = json.loads(written(found, "json"))
    assert len(data["diagnostics"]) == len(set(found))


def test_json_for_an_ascii_stream_is_still_json() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="latin-1")
    render([Diagnostic("PV1", Severity.ERROR, "a", "日")], {}, "json", stream, environ={})
    stream.flush()
    assert json.loads(raw.getvalue().decode("latin-1"))["diagnostics"][0]["message"] == "日"


# --- SARIF ---


@settings(max_examples=60, deadline=None)
@given(st.lists(DIAGNOSTICS, max_size=4), TEXTS)
def test_sarif_is_valid_by_the_schema_of_oasis(found: list[Diagnostic], summary: str) -> None:
    codes = {"PV203": CodeHelp("a title", "a reason", "a fix")}
    log = json.loads(written(found, "sarif", summary=summary, codes=codes, version="1.0"))
    assert list(VALIDATOR.iter_errors(log)) == []
    for result in log["runs"][0]["results"]:
        region = result["locations"][0]["physicalLocation"]["region"]
        assert region["startLine"] >= 1
        assert log["runs"][0]["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"]


def test_the_schema_refuses_a_log_that_is_off() -> None:
    """The validator really judges: a few logs that are not SARIF."""
    log = json.loads(written(many(1), "sarif"))
    for spoil in (
        lambda run: run["results"][0].pop("message"),
        lambda run: run["results"][0].update(level="fatal"),
        lambda run: run["results"][0]["locations"][0]["physicalLocation"]["region"].update(startLine=0),
        lambda run: run["tool"].pop("driver"),
        lambda run: run.update(extra=1),
    ):
        spoiled = json.loads(json.dumps(log))
        spoil(spoiled["runs"][0])
        assert list(VALIDATOR.iter_errors(spoiled)), spoil


def test_a_sarif_result_says_everything() -> None:
    source = "one\ntwo three\n"
    finding = Diagnostic(
        "PV203",
        Severity.WARNING,
        "a.yaml",
        "m",
        Span(8, 13, 2, 5, 2, 10),
        "e",
        "f",
        "w",
        "h",
        (TextEdit(8, 13, "four"),),
    )
    codes = {"PV203": CodeHelp("a title", "a reason", "a fix")}
    log = json.loads(written([finding], "sarif", sources={"a.yaml": source}, codes=codes, version="1.0", summary="s"))
    (run,) = log["runs"]
    (rule,) = run["tool"]["driver"]["rules"]
    assert rule == {
        "id": "PV203",
        "shortDescription": {"text": "a title"},
        "fullDescription": {"text": "a reason"},
        "help": {"text": "a reason\n\nFix: a fix\n\nMore: pv explain PV203"},
    }
    (result,) = run["results"]
    assert result["message"]["text"] == "m; expected e; found f; in w; fix: h"
    assert result["level"] == "warning"
    assert result["locations"][0]["physicalLocation"] == {
        "artifactLocation": {"uri": "a.yaml"},
        "region": {"startLine": 2, "startColumn": 5, "endLine": 2, "endColumn": 10, "snippet": {"text": "three"}},
    }
    assert result["fixes"][0]["artifactChanges"][0]["replacements"] == [
        {"deletedRegion": {"charOffset": 8, "charLength": 5}, "insertedContent": {"text": "four"}}
    ]
    assert run["properties"] == {"summary": "s"}


def fingerprints(found: list[Diagnostic]) -> list[str]:
    results = json.loads(written(found, "sarif"))["runs"][0]["results"]
    return [result["partialFingerprints"][FINGERPRINT] for result in results]


def test_a_fingerprint_survives_a_move_and_a_new_wording_and_tells_places_apart() -> None:
    before = Diagnostic(
        "PV203", Severity.ERROR, "contracts/a.yaml", "old words", Span(4, 9, 2, 3, 2, 8), where="claims[0]"
    )
    after = Diagnostic(
        "PV203", Severity.WARNING, "specs/a.yaml", "new words", Span(40, 49, 20, 3, 20, 8), where="claims[0]"
    )
    assert fingerprints([before]) == fingerprints([after])
    others = [
        Diagnostic("PV204", Severity.ERROR, "contracts/a.yaml", "old words", where="claims[0]"),
        Diagnostic("PV203", Severity.ERROR, "contracts/b.yaml", "old words", where="claims[0]"),
        Diagnostic("PV203", Severity.ERROR, "contracts/a.yaml", "old words", where="claims[1]"),
    ]
    assert len({*fingerprints([before]), *fingerprints(others)}) == 4
    twice = [Diagnostic("PV203", Severity.ERROR, "a.yaml", words, where="claims[0]") for words in ("x", "y")]
    assert len(set(fingerprints(twice))) == 2


def test_sarif_keeps_the_heaviest_25_000_and_says_so() -> None:
    found = [*many(25_100, Severity.WARNING), *many(3, Severity.ERROR)]
    log = json.loads(written(found, "sarif"))
    (run,) = log["runs"]
    assert len(run["results"]) == 25_000
    assert [result["level"] for result in run["results"][:4]] == ["error"] * 3 + ["warning"]
    (note,) = run["invocations"][0]["toolExecutionNotifications"]
    assert note["message"]["text"] == "103 of 25103 findings are left out: a run takes 25000"
    assert list(VALIDATOR.iter_errors({**log, "runs": [{**run, "results": run["results"][:5]}]})) == []
    assert "toolExecutionNotifications" not in json.loads(written(found[:10], "sarif"))["runs"][0]["invocations"][0]


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        ("a b/c.yaml", "a%20b/c.yaml"),
        ("ü#?.yaml", "%C3%BC%23%3F.yaml"),
        ("/x/y.yaml", "file:///x/y.yaml"),
        ("\udcff.yaml", "%5Cudcff.yaml"),
    ],
)
def test_a_path_is_a_uri(path: str, uri: str) -> None:
    log = json.loads(written([Diagnostic("PV101", Severity.ERROR, path, "m")], "sarif"))
    assert log["runs"][0]["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == uri


# --- GitHub ---

COMMAND = re.compile(r"::(error|warning|notice) ((?:\w+=[^,:\r\n]*)(?:,\w+=[^,:\r\n]*)*)::([^\r\n]*)")


def unescaped(text: str) -> str:
    for code, character in (("%2C", ","), ("%3A", ":"), ("%0A", "\n"), ("%0D", "\r"), ("%25", "%")):
        text = text.replace(code, character)
    return text


def test_an_annotation_says_everything() -> None:
    finding = Diagnostic("PV203", Severity.ERROR, "a,b:c.yaml", "50% of\nit", SPAN, where="w", help="h")
    assert written([finding], "github") == (
        "::error file=a%2Cb%3Ac.yaml,line=2,endLine=2,col=3,endColumn=8,title=PV203::50%25 of%0Ait%0Ain w%0Afix: h\n"
    )


def test_an_annotation_of_several_lines_has_no_columns() -> None:
    finding = Diagnostic("PV203", Severity.WARNING, "a.yaml", "m", Span(1, 9, 1, 2, 3, 4))
    assert written([finding], "github").startswith("::warning file=a.yaml,line=1,endLine=3,title=PV203::m")


@settings(max_examples=80, deadline=None)
@given(DIAGNOSTICS)
def test_a_finding_is_one_command_whatever_it_says(finding: Diagnostic) -> None:
    (line,) = written([finding], "github").splitlines()
    match = COMMAND.fullmatch(line)
    assert match is not None, line
    fields = dict(field.split("=", 1) for field in match[2].split(","))
    assert unescaped(fields["file"]) == safe(finding.path)
    assert unescaped(fields["title"]) == finding.code


def test_annotations_stay_within_the_caps_and_the_rest_is_in_the_summary(tmp_path: Path) -> None:
    step = tmp_path / "step.md"
    step.write_text("before\n")
    found = [*many(14), *many(13, Severity.WARNING), *many(2, Severity.INFO)]
    text = written(found, "github", summary="29 findings", environ={"GITHUB_STEP_SUMMARY": str(step)})
    lines = text.splitlines()
    assert [sum(line.startswith(f"::{word} ") for line in lines) for word in ("error", "warning", "notice")] == [
        10,
        10,
        2,
    ]
    assert lines[-2:] == ["29 findings", "7 more in the step summary"]
    summary = step.read_text()
    assert summary.startswith("before\n")
    assert summary.count("| PV203 |") == 29
    assert "29 findings" in summary


def test_without_a_step_summary_the_missing_ones_are_said_to_be_missing(tmp_path: Path) -> None:
    assert (
        written(many(11), "github").splitlines()[-1].startswith("1 more are not shown: GITHUB_STEP_SUMMARY is not set")
    )
    text = written(many(11), "github", environ={"GITHUB_STEP_SUMMARY": str(tmp_path / "no" / "file")})
    assert (
        text.splitlines()[-1] == "1 more are not shown: the step summary cannot be written (No such file or directory)"
    )
    assert "more" not in written(many(10), "github", summary="done")


def test_the_step_summary_is_cut_before_github_drops_it_and_cannot_break_its_table(tmp_path: Path) -> None:
    step = tmp_path / "step.md"
    found = [Diagnostic("PV203", Severity.ERROR, "a.yaml", f"{n} | <b>\n`x`" + "é" * 200) for n in range(4000)]
    written(found, "github", environ={"GITHUB_STEP_SUMMARY": str(step)})
    assert 800_000 < step.stat().st_size < 1_000_000
    lines = step.read_text().splitlines()
    assert re.fullmatch(r"\d+ more do not fit here; ask for `--output-format json`\.", lines[-1])
    rows = [line for line in lines if "PV203" in line]
    assert all(row.count("|") == 5 for row in rows)
    assert not any("<b>" in row for row in rows)


# --- JUnit ---


@settings(max_examples=60, deadline=None)
@given(st.lists(DIAGNOSTICS, max_size=4))
def test_junit_is_xml_whatever_is_found_and_its_counts_add_up(found: list[Diagnostic]) -> None:
    root = ElementTree.fromstring(written(found, "junit", files=["clean.yaml"]))
    cases = root.findall("./testsuite/testcase")
    errors = sum(each.severity == Severity.ERROR for each in set(found))
    assert len(cases) == int(root.attrib["tests"]) == len(set(found)) + 1
    assert len(root.findall(".//failure")) == int(root.attrib["failures"]) == errors
    for suite in root:
        assert int(suite.attrib["tests"]) == len(suite)
        assert int(suite.attrib["failures"]) == len(suite.findall(".//failure"))


def test_a_clean_file_passes_a_warning_passes_with_words_and_an_error_fails() -> None:
    found = [
        Diagnostic("PV203", Severity.ERROR, "a.yaml", "bad <key>", SPAN, expected="good", where="claims[0]"),
        Diagnostic("PV118", Severity.WARNING, "a.yaml", "odd", SPAN),
    ]
    root = ElementTree.fromstring(written(found, "junit", files=["a.yaml", "clean.yaml"]))
    first, second, clean = root.findall("./testsuite/testcase")
    assert (clean.attrib["classname"], clean.attrib["name"], len(clean)) == ("clean.yaml", "valid", 0)
    assert first.attrib["name"] == "PV118 at a.yaml:2"
    assert first.findtext("system-out") == "a.yaml:2: PV118 warning: odd"
    failure = second.find("failure")
    assert failure is not None
    assert (failure.attrib["type"], failure.attrib["message"]) == ("PV203", "bad <key>")
    assert failure.text == "a.yaml:2: PV203 error: bad <key>\nexpected good\nin claims[0]"
