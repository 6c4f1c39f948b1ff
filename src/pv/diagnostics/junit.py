"""A report -> JUnit XML: a suite for each file, a failed case for each error, a passed case for each clean file.

A warning is a passed case with its text as output: what counts the failures must agree with the exit code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TextIO
from xml.etree import ElementTree

from pv.diagnostics.model import Diagnostic, Severity
from pv.diagnostics.render import Look
from pv.diagnostics.report import Report, details
from pv.diagnostics.words import one_line, put, xml_safe


def render(report: Report, stream: TextIO, look: Look, environ: Mapping[str, str]) -> None:
    """One XML document and a line end."""
    suites = ElementTree.Element("testsuites", name="pv")
    failures = report.count(Severity.ERROR)
    by_file = report.by_file()
    total = sum(max(len(found), 1) for found in by_file.values())
    suites.attrib |= {"tests": str(total), "failures": str(failures), "errors": "0", "skipped": "0"}
    for path, found in by_file.items():
        suites.append(_suite(path, found))
    ElementTree.indent(suites)
    text = ElementTree.tostring(suites, encoding="unicode")
    put(stream, f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n', errors="xmlcharrefreplace")


def _suite(path: str, found: list[Diagnostic]) -> ElementTree.Element:
    suite = ElementTree.Element("testsuite", name=_attribute(path))
    failures = sum(each.severity == Severity.ERROR for each in found)
    suite.attrib |= {"tests": str(max(len(found), 1)), "failures": str(failures), "errors": "0", "skipped": "0"}
    for each in found:
        suite.append(_case(path, each))
    if not found:
        suite.append(_named_case(path, "valid", ""))
    return suite


def _case(path: str, each: Diagnostic) -> ElementTree.Element:
    line = f":{each.span.line}" if each.span is not None else ""
    place = f" {each.where}" if each.where else f" at {path}{line}"
    case = _named_case(path, f"{each.code}{place}", line.removeprefix(":"))
    lines = [f"{each.path}{line}: {each.code} {each.severity}: {each.message}", *details(each)]
    body = xml_safe("\n".join(lines))
    if each.severity == Severity.ERROR:
        failure = ElementTree.SubElement(case, "failure", type=each.code, message=_attribute(each.message))
        failure.text = body
    else:
        ElementTree.SubElement(case, "system-out").text = body
    return case


def _named_case(path: str, name: str, line: str) -> ElementTree.Element:
    case = ElementTree.Element("testcase", classname=_attribute(path), name=_attribute(name), time="0")
    case.attrib["file"] = _attribute(path)
    if line:
        case.attrib["line"] = line
    return case


def _attribute(text: str) -> str:
    return xml_safe(one_line(text))
