"""YAML files as data with positions, and careful writes of text.

Enters: bytes of one file. Leaves: a `Document` (plain data, a span for every key and value, the problems seen while
reading) or a refusal with a place; and, the other way round, text edits applied, proven by a reload, and put on disk
atomically. Has never heard of contracts.
"""
