"""Comparison: metrics in float64, tensor diffs, bisection on the graph of stages, thresholds per comparison kind.

Enters: arrays, or views of captures. Leaves: findings: which stage differs, by how much, locally or by inheritance.
"""
