"""Distillation: a frozen teacher's logits on disk, and a student that really trains on them.

Enters: a config, a corpus and a teacher. Leaves: a hashed cache of logits, a student as an ordinary model directory,
and metadata for each epoch.
"""
