"""pv: keeps claims about machine-learning code honest.

A claim lives in a YAML contract as a falsifier; `pv validate` checks the contract, `pv falsify` runs the code that
tries to break the claim, and the status written in the YAML is what the runs earned. docs/architecture.md names the
rooms of this package and which may import which.
"""

__version__ = "0.1.0"
