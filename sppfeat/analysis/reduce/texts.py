"""What is said of a reduction of descriptors."""

from sppfeat.config.wording import counted

__all__ = ["dimensions_text", "variance_text"]


def dimensions_text(method: str, *, selected: int, source_dimension: int, dimension: int) -> str:
    """How a reduction shortens descriptors.

    Example:
        >>> dimensions_text("pca", selected=512, source_dimension=2688, dimension=256)
        'pca, 512 of 2688 -> 256'
    """
    taken = "" if selected == source_dimension else f" of {source_dimension}"
    return f"{method}, {selected}{taken} -> {dimension}"


def variance_text(share: float, n_rows: int) -> str:
    """How much is left of what rows differ in.

    Example:
        >>> variance_text(0.75514, 3030)
        '75.51 % of the variance of the 3030 rows that it was fitted on'
    """
    return f"{100 * share:.2f} % of the variance of the {counted(n_rows, 'row')} that it was fitted on"
