"""Shards on Ray: one predictor an actor, on this machine or on a cluster.

Plain actors and ``ray.util.ActorPool``: the next shard goes to a worker when its last one was fetched, so that results
do not pile up however slow the disk is. A worker that dies is started again, and its shard with it. Only this process
writes, so that the output needs no file system of the cluster's.
"""

import os
import re
import socket
import tempfile
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2

from nnface.errors import DependencyError, DeviceError, NnfaceError
from nnface.header import read_content
from nnface.predict.analyzer import Analyzer
from nnface.predict.detector import Detector
from nnface.predict.stream import pictures as stream
from nnface.scale.job import Job
from nnface.scale.output import Manifest, Output
from nnface.scale.pictures import Pictures
from nnface.scale.shard import Shard, encode
from nnface.zoo import resolve

RETRIES = 3
"""How often a shard whose worker died is tried again."""


class Worker:
    """What an actor is: it holds the predictor and makes shards."""

    def __init__(self, job: Job, manifest: Manifest, threads: int) -> None:
        """Take what is small; nothing is opened before the first shard, so that errors come with it."""
        self._job, self._manifest, self._threads = job, manifest, threads
        self._opened: tuple[Detector | Analyzer, Pictures] | None = None

    def make(self, shared: list[Any], number: int, batch: int | None) -> Shard | NnfaceError:
        """A shard, or what hinders every shard.

        Args:
            shared: references to the model files (bytes by name, by role; other machines need not have them) and to
                the pictures. In a list, so that they are fetched once, not at each call.
            number: of the shard.
            batch: see :func:`run`.
        """
        try:
            predictor, pictures = self._opened = self._opened or self._open(shared)
            names = pictures.part(*self._manifest.span(number))
            found = stream(predictor, names, workers=self._threads, batch=batch, load=pictures.reader.load)
            return encode(self._manifest.run, number, zip(names, found, strict=True))
        except NnfaceError as error:
            return error

    def _open(self, shared: list[Any]) -> tuple[Detector | Analyzer, Pictures]:
        import ray

        models, pictures = ray.get(shared)
        pictures.reader.settle()
        cv2.setNumThreads(1)
        with tempfile.TemporaryDirectory() as folder:
            files: dict[str, Any] = {}
            for role, contents in models.items():
                place = Path(folder, role)
                place.mkdir()
                for name, content in contents.items():
                    (place / name).write_bytes(content)
                files[role] = str(place / next(iter(contents)))
            return replace(self._job, **files).open(1), pictures


def run(
    job: Job,
    pictures: Pictures,
    output: Output,
    *,
    address: str | None = None,
    threads: int | None = None,
    batch: int | None = None,
) -> Generator[Shard, None, None]:
    """Make the shards that are missing, in the order in which they become ready.

    Args:
        address: of a Ray cluster, ``host:port``, ``ray://host:port`` or ``auto``; None: that of
            ``RAY_ADDRESS``, or Ray is started here.
        threads: one-threaded workers; by default one for each CPU of the cluster. On GPUs there is one worker for each
            GPU, and the threads are shared out among them.
        batch: see :func:`nnface.predict.stream.pictures`.

    Yields:
        each shard when it is written.

    Raises:
        DependencyError: Ray is not installed.
        DeviceError: no cluster at the address, or none with the device.
        NnfaceError: what hinders every shard, or a shard whose workers die again and again.
    """
    if not output.pending:
        return
    ray = _connect(address, threads)
    try:
        workers, resources, own_threads = _shape(ray.cluster_resources(), job.device, threads)
        models = {role: _contents(resolve(model)) for role, model in job.models.items()}
        shared = [ray.put(value) for value in (models, pictures)]
        actor = ray.remote(max_restarts=-1, max_task_retries=RETRIES, **resources)(Worker)
        count = min(workers, len(output.pending))
        pool = ray.util.ActorPool([actor.remote(job, output.manifest, own_threads) for _ in range(count)])
        for made in pool.map_unordered(lambda worker, n: worker.make.remote(shared, n, batch), output.pending):
            if isinstance(made, NnfaceError):
                raise made
            output.keep(made)
            yield made
    except ray.exceptions.RayActorError as error:
        raise NnfaceError(
            f"a worker on Ray died {RETRIES + 1} times at one shard (too little memory, most likely: fewer --threads "
            "need less); what is written stays, and the same command goes on"
        ) from error
    except ray.exceptions.RayError as error:
        raise NnfaceError(f"Ray failed: {str(error).strip().splitlines()[-1]}; the same command goes on") from error
    finally:
        ray.shutdown()


def _contents(model: Path) -> dict[str, bytes]:
    """The bytes of a model file by its name; of OpenVINO's those of its weights too."""
    paths = [model, model.with_suffix(".bin")] if model.suffix == ".xml" else [model]
    return {path.name: read_content(path) for path in paths}


def _connect(address: str | None, threads: int | None) -> Any:
    """Start Ray here, or join a cluster."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers of every run
    try:
        import ray
        import ray.util
    except ImportError as error:
        raise DependencyError("--engine ray needs Ray: pip install 'nnface[ray]'") from error
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    address = address or os.environ.get("RAY_ADDRESS")
    if address is None:
        # Ray's workers are nice, by 15, and starve beside whatever else the machine does; the plain run is not.
        os.environ.setdefault("RAY_worker_niceness", "0")
        ray.init("local", num_cpus=threads, include_dashboard=False, **quiet)
        return ray
    where = "on this machine" if address == "auto" else f"at {address}"
    absent = f"there is no Ray cluster {where}; start one with ray start --head, or leave --ray-address out"
    if match := re.fullmatch(r"(?:ray://)?\[?([^/\]]+)\]?:(\d+)", address):
        try:  # Ray itself would try for minutes, and may end the process
            socket.create_connection((match[1], int(match[2])), timeout=10).close()
        except (OSError, OverflowError) as error:
            raise DeviceError(absent) from error
    elif address != "auto":
        raise DeviceError(f"{address} is no address of a Ray cluster; it is host:port, ray://host:port or auto")
    try:
        ray.init(address, **quiet)
    except Exception as error:  # Ray has no common base class for what may go wrong here
        raise DeviceError(absent) from error
    return ray


def _shape(cluster: dict[str, float], device: str, threads: int | None) -> tuple[int, dict[str, float], int]:
    """How many workers, what each takes of the cluster, and the threads of each."""
    cpus = min(threads or 1 << 20, int(cluster.get("CPU", 0)))
    if cpus < 1:
        raise DeviceError("the Ray cluster has no CPU for workers; start it with some (ray start --num-cpus)")
    if not device.startswith(("cuda", "tensorrt")):
        return cpus, {"num_cpus": 1}, 1
    gpus = int(cluster.get("GPU", 0))
    if gpus < 1:
        raise DeviceError(f"the Ray cluster has no GPU, so there is no {device}; use --device cpu")
    return gpus, {"num_cpus": 1, "num_gpus": 1}, max(cpus // gpus, 1)
