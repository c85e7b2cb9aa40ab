"""Texts about networks, reductions, samples and numbers, for several rooms and commands."""

import math
from collections.abc import Mapping
from typing import Any

from sppfeat.config.specs import BackboneSpec
from sppfeat.config.wording import counted

__all__ = [
    "dimensions_text",
    "network_text",
    "nonfinite_text",
    "reduction_text",
    "rounded",
    "sample_text",
    "variance_text",
]

_MOST = 1e9  # larger numbers get an exponent

_SHOWN_DIGITS = 8  # hexadecimal digits to show of a checksum


def dimensions_text(method: str, *, selected: int, source_dimension: int, dimension: int) -> str:
    """Method of a reduction, with the numbers of selected columns, source columns and components.

    Example:
        >>> dimensions_text("pca", selected=512, source_dimension=2688, dimension=256)
        'pca, 512 of 2688 -> 256'
    """
    taken = "" if selected == source_dimension else f" of {source_dimension}"
    return f"{method}, {selected}{taken} -> {dimension}"


def variance_text(share: float, n_rows: int) -> str:
    """Share of the variance, 0 to 1, that a reduction keeps of the rows that it was fitted on."""
    return f"{100 * share:.2f} % of the variance of the {counted(n_rows, 'row')} that it was fitted on"


def reduction_text(reduction: Mapping[str, Any]) -> str:
    """Dimensions and scaling of a reduction, as ``sppfeat.info`` describes it, and the variance that it keeps."""
    source = reduction["source"]
    text = dimensions_text(
        reduction["method"],
        selected=source["selected"],
        source_dimension=source["dimension"],
        dimension=reduction["components"],
    )
    text += " values, whitened" if reduction["whiten"] else " values"
    text += ", scaled to l2 norm 1" if reduction["normalize"] == "l2" else ""
    if reduction["explained_variance"] is not None:
        text += f"; {variance_text(reduction['explained_variance'], reduction['fitted_rows'])}"
    return text


def network_text(spec: BackboneSpec) -> str:
    """Name of a network and the origin of its weights."""
    origins = {
        "none": f"untrained, with random values (seed {spec.seed})",
        "module": "weights of your own network",
        "file": f"weights of a file (SHA-256 {spec.weights_sha256[:_SHOWN_DIGITS]}...)",
    }
    return f"{spec.name}, {origins.get(spec.weights, f'weights {spec.weights}')}"


def sample_text(n_shown: int, *, n_nonfinite: int, n_rows: int) -> str:
    """Number of rows shown, and of rows to draw from; nonfinite rows were drawn but are not shown.

    Example:
        >>> sample_text(1990, n_nonfinite=10, n_rows=5000), sample_text(1990, n_nonfinite=10, n_rows=2000)
        ('1,990 of 5,000 rows, drawn at random', '1,990 rows')
    """
    if n_shown + n_nonfinite < n_rows:
        return f"{n_shown:,} of {counted(n_rows, 'row', thousands=',')}, drawn at random"
    return counted(n_shown, "row", thousands=",")


def nonfinite_text(n_rows: int) -> str:
    """Ending of a sentence that counts rows left out for NaN or infinities; empty for 0 rows."""
    return f"; {n_rows:,} with NaN or infinities left out" if n_rows else ""


def rounded(value: float, digits: int = 4) -> str:
    """Formats a number with this many significant digits, and with an exponent only if it is very small or large.

    Example:
        >>> rounded(21452.7), rounded(0.4, 3), rounded(9.9996), rounded(0.0), rounded(2.5e-7)
        ('21,453', '0.400', '10.00', '0', '2.500e-07')
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    exponent = int(
        f"{value:.{digits - 1}e}".partition("e")[2]
    )  # of the rounded number: 9.9996 rounds to 10.00
    if abs(value) >= _MOST or exponent < -digits:
        return f"{value:.{digits - 1}e}"
    return f"{value:,.{max(0, digits - 1 - exponent)}f}"
