"""Whether a file is the shard that it says it is, and a merged file what its sources are."""

from sppfeat.config.wording import counted
from sppfeat.errors import StoreError
from sppfeat.store.merge_sources import SourceFiles
from sppfeat.store.reader import FeatureFile

__all__ = ["shard_problems"]


def shard_problems(file: FeatureFile) -> list[str]:
    """What is wrong with the record of a shard, or with the files that a merged file was made of; in words."""
    problems = [] if file.sources is None else _of_sources(file, file.sources)
    try:
        shard = file.shard
    except StoreError as error:
        return [*problems, str(error)]
    if shard is not None:
        expected = (shard.stop_image - shard.first_image, shard.stop_row - shard.first_row)
        if (file.n_images, file.n_rows) != expected:
            problems.append(
                f"the attribute 'shard' says {expected[0]} images and {expected[1]} rows, the file has {file.n_images} "
                f"and {file.n_rows}"
            )
    return problems


def _of_sources(file: FeatureFile, sources: SourceFiles) -> list[str]:
    """What sources say of their images now, and the merged file does not."""
    problems = []
    status = file.status
    for i, source in enumerate(sources):
        path = sources.path_of(i)
        try:
            with FeatureFile(path) as part:
                now = part.status
            if source.n_rows:
                sources.map(i)
        except StoreError as error:
            problems.append(str(error))
            continue
        merged = status[source.first_image : source.stop_image]
        if len(now) != len(merged):
            problems.append(
                f"the source {path!r} has {counted(len(now), 'image')}, of which {len(merged)} were merged"
            )
        elif (now != merged).any():
            n_others = int((now != merged).sum())
            problems.append(
                f"{counted(n_others, 'image')} of the source {path!r} {'has' if n_others == 1 else 'have'} another "
                "status than when they were merged"
            )
    return problems
