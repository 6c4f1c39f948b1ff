"""The ladder: which status the records on disk support, and what must change in the YAML because of it.

Enters: a claim and views of its records. Leaves: an entitlement with its reasons, a version bump computed from
meaning, and a write-back plan of text edits, which it also applies (lock, compare-and-swap, proof, atomic replace).
"""
