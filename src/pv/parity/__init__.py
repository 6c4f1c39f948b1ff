"""Parity: may this GPU backend serve tokens? The start gate, the deep check, planted defects and the gate's power.

Enters: two sessions of one model and a prompt. Leaves: a verdict with its numbers and a receipt.
"""
