"""Texts of ``sppfeat train``: the plan, a line for each epoch, and the result."""

import json
from typing import Any

from sppfeat.cli.output import first_of, labeled_lines
from sppfeat.config.wording import counted

__all__ = ["epoch_text", "plan_text", "result_text"]

_SHOWN = 5


def plan_text(plan: dict[str, Any], settings: dict[str, Any] | None) -> str:
    """Formats a plan as lines of text, with the settings at the end if they are given."""
    labels = counted(plan["classes"], "class") if plan["classes"] else "no labels"
    images = f"{counted(plan['images'], 'image')}, {labels}; {plan['validation_images']} to validate on" + (
        f"; {plan['left_out']} left out" if plan["left_out"] else ""
    )
    network = (
        f"{plan['backbone']} ({plan['weights']}), layer {plan['layer']}, "
        f"{plan['parameters'] / 1e6:.2f} million parameters in training"
    )
    done = f", {plan['epochs_done']} done" if plan["steps_done"] else ""
    lines = [
        ("train", images),
        ("network", network),
        *([("teachers", ", ".join(plan["teachers"]))] if plan["teachers"] else []),
        ("steps", f"{plan['steps']} in {counted(plan['epochs'], 'epoch')}{done}"),
        ("device", f"{plan['device']}, {plan['precision']}"),
        ("output", plan["output"]),
        *(("note", note) for note in plan["notes"]),
    ]
    text = labeled_lines(lines, width=12)
    return text if settings is None else "\n".join([text, "settings:", json.dumps(settings, indent=2)])


def epoch_text(entry: dict[str, Any]) -> str:
    """Formats the log entry of an epoch as a line.

    Example:
        >>> entry = {"epoch": 3, "size": 224, "loss": 1.5, "images": 100, "seconds": 10.0, "learning_rate": 0.1}
        >>> epoch_text({**entry, "validation": {"224": {"images": 20, "loss": 1.25, "top1": 0.5}}})
        'epoch 3: size 224, loss 1.5000, 10.0 images/s; validation at 224: loss 1.2500, top1 50.0 %'
    """
    text = (
        f"epoch {entry['epoch']}: size {entry['size']}, loss {entry['loss']:.4f}, "
        f"{entry['images'] / max(entry['seconds'], 1e-9):.1f} images/s"
    )
    for size, scores in entry.get("validation", {}).items():
        shares = [f"{name} {100 * v:.1f} %" for name, v in scores.items() if name not in ("images", "loss")]
        text += f"; validation at {size}: loss {scores['loss']:.4f}, {', '.join(shares)}"
    return text


def result_text(result: dict[str, Any], verbose: bool) -> str:
    """Formats the result of a training as lines of text, with all left-out images if ``verbose``."""
    if result["finished"]:
        came = f"Done: {counted(result['epochs'], 'epoch')}; weights in {result['weights']}"
    else:
        came = f"Stopped after {counted(result['epochs'], 'whole epoch')}: the same command with --resume continues."
    left_out = [f"left out: {failure}" for failure in result["left_out"]]
    shown = None if verbose else _SHOWN
    return "\n".join([came, *first_of(left_out, shown, more="left out: {} more (-v shows all)")])
