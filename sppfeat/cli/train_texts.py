"""What ``sppfeat train`` says."""

import json
from typing import Any

from sppfeat.cli.output import first_of, print_json, print_result
from sppfeat.config.wording import counted

__all__ = ["epoch_text", "plan_text", "print_plan", "result_text"]

_SHOWN = 5


def print_plan(plan: dict[str, Any], settings: dict[str, Any] | None, as_json: bool) -> None:
    """Print a plan as the result, for ``--dry-run``."""
    if as_json:
        print_json({"plan": plan, **({"settings": settings} if settings else {})})
    else:
        print_result(plan_text(plan, settings))


def plan_text(plan: dict[str, Any], settings: dict[str, Any] | None) -> str:
    """The plan, a line each; with all settings where they are given."""
    labels = counted(plan["classes"], "class") if plan["classes"] else "no labels"
    lines = [
        f"train:      {counted(plan['images'], 'image')}, {labels}; {plan['validation_images']} to validate on"
        + (f"; {plan['left_out']} left out" if plan["left_out"] else ""),
        f"network:    {plan['backbone']} ({plan['weights']}), layer {plan['layer']}, "
        f"{plan['parameters'] / 1e6:.2f} million parameters in training",
    ]
    if plan["teachers"]:
        lines.append(f"teachers:   {', '.join(plan['teachers'])}")
    done = f", {plan['epochs_done']} done" if plan["steps_done"] else ""
    lines.append(f"steps:      {plan['steps']} in {counted(plan['epochs'], 'epoch')}{done}")
    lines.append(f"device:     {plan['device']}, {plan['precision']}")
    lines.append(f"output:     {plan['output']}")
    lines += [f"note:       {note}" for note in plan["notes"]]
    if settings is not None:
        lines += ["settings:", json.dumps(settings, indent=2)]
    return "\n".join(lines)


def epoch_text(entry: dict[str, Any]) -> str:
    """One epoch, in a line.

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
    """What came of it."""
    if result["finished"]:
        came = f"Done: {counted(result['epochs'], 'epoch')}; weights in {result['weights']}"
    else:
        came = f"Stopped after {counted(result['epochs'], 'whole epoch')}: the same command with --resume continues."
    left_out = [f"left out: {failure}" for failure in result["left_out"]]
    shown = None if verbose else _SHOWN
    return "\n".join([came, *first_of(left_out, shown, more="left out: {} more (-v shows all)")])
