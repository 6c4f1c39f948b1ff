"""Traces: which stages to capture, and the files they are captured to and read from.

Enters: a plan (stages x layers) and a session. Leaves: APRT files with a manifest, statistics with their sample, and
captures of an independent oracle in the same form.
"""
