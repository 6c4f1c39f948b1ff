"""Evidence: one immutable JSON file per run of a check in a cell.

Enters: what a run observed. Leaves: records (in-toto statements, named by their digest), the store of them, claim and
closure digests, reasons for staleness, bundles, and the offline verification of everything on disk.
"""
