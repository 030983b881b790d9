"""The engine that is always there: all cores of this machine."""

from collections.abc import Generator
from contextlib import closing

from nnface.predict.stream import pictures as stream
from nnface.scale.job import Job
from nnface.scale.output import Output
from nnface.scale.pictures import Pictures
from nnface.scale.shard import Shard, encode


def run(
    job: Job, pictures: Pictures, output: Output, *, threads: int, batch: int | None = None
) -> Generator[Shard, None, None]:
    """Make the shards that are missing, in order; no core waits where one ends and the next begins.

    Args:
        threads: one-threaded workers.
        batch: see :func:`nnface.predict.stream.pictures`.

    Yields:
        each shard when it is written.
    """
    if not output.pending:
        return
    parts = [(number, output.manifest.span(number)) for number in output.pending]
    names = (name for _, span in parts for name in pictures.part(*span))
    with closing(stream(job.open(1), names, workers=threads, batch=batch, load=pictures.reader.load)) as found:
        for number, span in parts:
            # The names come first in the zip: it ends before it would take a result of the next shard.
            shard = encode(output.manifest.run, number, zip(pictures.part(*span), found, strict=False))
            output.keep(shard)
            yield shard
