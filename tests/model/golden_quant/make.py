"""Make `ggml.json` from an installed llama.cpp: `python tests/model/golden_quant/make.py`."""

from __future__ import annotations

import base64
import hashlib
import json
import runpy
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
T = runpy.run_path(str(HERE.parent / "test_quant_bytes.py"))


def main() -> None:
    """Blocks of every family whole, of larger ones as digests; dequantized values and activations as digests."""
    ggml, family, small, large = T["Ggml"](), T["family"], T["SMALL"], T["LARGE"]

    def digest(data: bytes) -> str:
        return hashlib.sha256(data).hexdigest()

    def table(make):  # type: ignore[no-untyped-def]
        return {str(kind): {name: make(kind, name) for name in T["FAMILIES"]} for kind in T["BLOCK_TYPES"]}

    whole = table(lambda kind, name: ggml.quantize(kind, family(name, small)))
    data = {
        "made_by": f"xllamacpp {version('xllamacpp')}, ggml's quantize_row_*_ref and dequantize_row_* (MIT)",
        "blocks": {k: {n: base64.b64encode(b.tobytes()).decode() for n, b in t.items()} for k, t in whole.items()},
        "dequantized": table(lambda kind, name: digest(ggml.dequantize(kind, whole[kind][name]).tobytes())),
        "digests": table(lambda kind, name: digest(ggml.quantize(kind, family(name, large)).tobytes())),
        "activations": {
            kind: {name: digest(ggml.activations(kind, family(name, large))) for name in T["ACTIVATION_FAMILIES"]}
            for kind in T["BLOCK"]
        },
    }
    (HERE / "ggml.json").write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
