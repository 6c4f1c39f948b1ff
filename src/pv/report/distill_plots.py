"""The history of a training -> loss curves beside its metadata. Needs matplotlib (extra `report`)."""

from __future__ import annotations

import json
from pathlib import Path


def loss_curves(epoch_folder: Path) -> Path | None:
    """Draw `history.json` of an epoch's folder as `losses.svg` there; None where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    history = json.loads((epoch_folder / "history.json").read_text(encoding="utf-8"))
    columns = dict(zip(history["columns"], zip(*history["rows"], strict=True), strict=True))
    metadata = json.loads((epoch_folder / "metadata.json").read_text(encoding="utf-8"))
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, style in (("total_loss", "-"), ("kl_loss", "--"), ("ce_loss", ":")):
        if any(columns[name]):
            axes.plot(columns["step"], columns[name], style, label=name.replace("_", " "))
    axes.axhline(metadata["val_loss"], color="black", linewidth=0.8, label=f"validation {metadata['val_loss']:.3f}")
    rate = metadata["tokens_seen"] / max(metadata["wall_seconds"], 1e-9)
    axes.set(xlabel="step", ylabel="nats per token", title=f"{metadata['tokens_seen']:,} tokens, {rate:,.0f} a second")
    axes.legend()
    place = epoch_folder / "losses.svg"
    figure.savefig(place, metadata={"Date": None})  # the same history gives the same file
    return place
