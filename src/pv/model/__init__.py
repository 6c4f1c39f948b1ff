"""Models: a spec, weights with a type for each tensor, a tokenizer, and the one forward that every torch backend runs.

Enters: a model directory or a GGUF file. Leaves: logits, tokens, and (where a tap asks) the tensors in between.
This package's `__init__` imports nothing, so that `pv.model.stages` can be read without torch.
"""
