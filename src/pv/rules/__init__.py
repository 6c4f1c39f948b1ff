"""Rules: one table; each rule turns a loaded contract (or all of them) into diagnostics.

Enters: loaded contracts, the project, and facts about evidence handed in as plain data. Leaves: diagnostics with the
codes that `pv explain` knows.
"""
