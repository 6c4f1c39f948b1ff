"""Backends: the machines a model runs on (cpu, cuda, wgpu), behind one protocol, and the choice between them.

Enters: a loaded model. Leaves: a `Session` that serves logits and taps, and facts about the device.
"""
