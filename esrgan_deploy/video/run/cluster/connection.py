"""Joining a Ray cluster, or starting one on this machine, and how many workers its nodes can hold."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from esrgan_deploy.backends.names import GPU_BACKENDS
from esrgan_deploy.errors import BackendMissingError, MachineError, OptionError

CONNECT_S = 5.0
"""Seconds that a cluster has to accept a connection. Ray itself would try for ten minutes."""


@dataclass(frozen=True)
class WorkerResources:
    """What Ray reserves for one worker on its node."""

    cpus: int
    gpus: int

    def __str__(self) -> str:
        return f"{self.gpus} GPU" if self.gpus else f"{self.cpus} CPUs"


@contextlib.contextmanager
def ray_connection(address: str | None) -> Iterator[None]:
    """Be connected to a cluster for the block. A program that is connected already stays so, whatever `address` is.

    Args:
        address: "host:port", or "auto" for the cluster that this machine belongs to; None or "local": start one on this
            machine, and stop it at the end.

    Raises:
        BackendMissingError: Ray is not installed.
        OptionError: not of that form.
        MachineError: no cluster answers there, or it is of another version.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # A task that asks for no GPU sees all of them; a later Ray will hide them, and warns unless told to keep this.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise BackendMissingError("--ray needs Ray: pip install 'esrgan-deploy[ray]'") from error
    if ray.is_initialized():
        yield
        return
    address = _address(address)
    if address not in ("auto", "local"):
        _check_answers(address)
    with _sigterm_handler_kept():
        logging.getLogger("ray").setLevel(logging.ERROR)
        try:
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                include_dashboard=False if address == "local" else None,
            )
        except (OSError, RuntimeError, ValueError, AssertionError) as error:  # by version and by cause
            raise MachineError(
                f"--ray {address}: {' '.join(str(error).split())}; on every machine: "
                "ray start --head, or ray start --address=HEAD:PORT"
            ) from error
    try:
        yield
    finally:
        ray.shutdown()


def worker_resources(backend: str, threads: int | None) -> WorkerResources:
    """What a worker of this backend needs: a GPU and a CPU, or a CPU for each thread.

    If `threads` is None it gets as many CPUs as the smallest node has, so that one worker fills that node.

    Raises:
        MachineError: no node has that.
    """
    nodes = _alive_nodes()
    has_gpus = any(node.get("GPU", 0) >= 1 for node in nodes)
    if backend in GPU_BACKENDS or (backend == "auto" and has_gpus):
        wanted = WorkerResources(cpus=1, gpus=1)
    else:
        cpus = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
        wanted = WorkerResources(cpus=threads or min(cpus, default=1), gpus=0)
    if not count_slots(wanted):
        largest = max((int(node.get("CPU", 0)) for node in nodes), default=0)
        has = f"no node has more than {largest}" if not wanted.gpus else "no node has one"
        raise MachineError(f"--ray: a worker needs {wanted}, and {has}; give fewer --threads or another backend")
    return wanted


def count_slots(wanted: WorkerResources) -> int:
    """How many workers the nodes that are alive can hold at the same time."""
    count = 0
    for node in _alive_nodes():
        fits = node.get("CPU", 0) // wanted.cpus
        count += int(min(fits, node.get("GPU", 0) // wanted.gpus) if wanted.gpus else fits)
    return count


def _alive_nodes() -> list[dict[str, float]]:
    """The resources of each node that is alive."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _address(address: str | None) -> str:
    if address is None or address == "local":
        return "local"
    if address == "auto":
        return os.environ.get("RAY_ADDRESS", address)
    if not address.rpartition(":")[2].isdigit() or "/" in address:
        raise OptionError(f"--ray {address}: is no address; give host:port of the head node, or auto on a node")
    return address


def _check_answers(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError, ValueError) as error:
        raise MachineError(
            f"--ray {address}: nothing answers there: {getattr(error, 'strerror', None) or error}; "
            "start it with ray start --head, and check the firewall"
        ) from error


@contextlib.contextmanager
def _sigterm_handler_kept() -> Iterator[None]:
    """Keep this program's handler of SIGTERM: `ray.init` replaces it by one that exits without a message."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
