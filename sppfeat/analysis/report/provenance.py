"""Origin of a feature file, as texts."""

import os

from sppfeat.analysis.wording import dimensions_text, network_text, variance_text
from sppfeat.config.wording import counted
from sppfeat.store.feature_table import FeatureTable
from sppfeat.store.reduction import Reduction

__all__ = ["describe_provenance", "reduction_text"]

_MOST_SOURCES = 20  # maximum number of source files to name


def describe_provenance(file: FeatureTable) -> list[tuple[str, str]]:
    """Lists the known facts about the origin of a file, as names and values."""
    config, ids = file.config, file.image_id_table
    found = [
        ("file", str(file.path.absolute())),
        ("made", file.attribute("created")),
        ("by", f"sppfeat {file.attribute('sppfeat_version')}, schema {file.schema_version}"),
        ("images under", file.root),
        ("ids of images", f"as the inputs had them, the first: {os.fsdecode(ids[0])}" if ids else ""),
        ("network", network_text(config.backbone)),
        ("file of weights", file.attribute("weights_path")),
        ("SHA-256 of weights", config.backbone.weights_sha256),
    ]
    if config.regions is not None:
        found += [
            ("boxes", file.attribute("boxes_path") or config.regions.boxes),
            ("SHA-256 of boxes", str(config.to_dict().get("boxes_sha256") or "")),
        ]
    if file.norm_factors:
        found.append(("factors of the mean norm", ", ".join(f"{factor:.6g}" for factor in file.norm_factors)))
    if (shard := file.shard) is not None:
        images = _range_text("image", shard.first_image, shard.stop_image)
        rows = _range_text("row", shard.first_row, shard.stop_row)
        text = f"shard {shard.index} of {shard.count}: {images} of {shard.n_images:,}, {rows} of {shard.n_rows:,}"
        found.append(("part of a run", text))
    if file.sources is not None:
        n = len(file.sources.files)
        found.append(("merged of", f"{counted(n, 'file', thousands=',')}, in which the descriptors lie"))
        for i, source in enumerate(file.sources.files[:_MOST_SOURCES]):
            rows = _range_text("row", source.first_row, source.stop_row)
            found.append((f"file {i + 1} of {n}", f"{file.sources.path_of(i)}: {rows}"))
        if n > _MOST_SOURCES:
            found.append(("and more", f"{n - _MOST_SOURCES:,}; sppfeat info --json names all"))
    if (reduction := file.reduction) is not None:
        found += [
            ("reduced", reduction_text(reduction)),
            ("fitted on rows", ", ".join(reduction.spec.fit_rows)),
            ("fitted on the file with fingerprint", reduction.record.source_fingerprint),
            ("fingerprint of the reduction", reduction.fingerprint),
        ]
    found.append(("fingerprint of the settings", file.attribute("fingerprint")))
    return [(name, value) for name, value in found if value]


def reduction_text(reduction: Reduction) -> str:
    """Dimensions of a reduction, and the share of the variance that it keeps."""
    record, spec = reduction.record, reduction.spec
    text = dimensions_text(
        spec.method,
        selected=record.selection.width,
        source_dimension=reduction.source_dimension,
        dimension=reduction.dimension,
    )
    text += " values, whitened" if spec.whiten else " values"
    text += ", scaled to l2 norm 1" if spec.normalize == "l2" else ""
    if record.explained_variance is not None:
        text += f"; {variance_text(record.explained_variance, record.fitted_rows)}"
    return text


def _range_text(what: str, first: int, stop: int) -> str:
    """Text of a half-open range, counted from 0: its first and last members."""
    return f"{what}s {first:,} to {stop - 1:,}" if stop > first else f"no {what}"
