"""Findings: what was expected, what was found, where, and what to do next.

Enters: problems seen by any room above, as `Diagnostic` values with a stable code and a span. Leaves: text with an
excerpt and a caret, JSON, SARIF, GitHub annotations or JUnit XML. Knows nothing of YAML or of contracts.
"""
