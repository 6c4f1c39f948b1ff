"""Contracts: the vocabulary, the models, the project's settings and the meaning of a change.

Enters: a `Document`. Leaves: a `Contract` with the document it came from and the diagnostics of its shape; the JSON
Schema of it; and, for two versions of one contract, the list of changes in meaning.
"""
