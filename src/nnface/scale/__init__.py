"""Prediction over millions of pictures: sharded Parquet, a manifest, and engines (this machine, Ray).

A :class:`Job` says what is done with each picture, :func:`find` lists the pictures, :func:`opened` begins an output
folder or goes on with one, and an engine (:func:`nnface.scale.here.run` or :func:`nnface.scale.cluster.run`) makes the
shards that are not there yet. :func:`read` gives the rows back.

>>> from nnface import scale  # doctest: +SKIP
>>> for row in scale.read("photos.parquet"):  # doctest: +SKIP
...     print(row.file, row.error or len(row.faces))

pyarrow (the extra ``[scale]``) and Ray (``[ray]``) are imported where they are used.
"""

from nnface.scale.job import Job
from nnface.scale.output import Manifest, Output, describe, opened, read
from nnface.scale.pictures import Pictures, find
from nnface.scale.shard import Row, Shard, schema

__all__ = ["Job", "Manifest", "Output", "Pictures", "Row", "Shard", "describe", "find", "opened", "read", "schema"]
