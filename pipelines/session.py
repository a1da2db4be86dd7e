"""Ray, started or attached to, and left without a trace."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from pipelines.embedded import ADDRESS, Embedded
from pipelines.stopping import deferred, undisturbed
from schemas.config.run import ClusterConfig
from schemas.errors import VtokError
from vtok import console

_HOLD = 0.002  # seconds between two looks at the signal handlers


@contextmanager
def ray_session(cluster: ClusterConfig) -> Iterator[None]:
    """Attaches to the cluster at `cluster.address`, or starts a Ray embedded in this process.

    A Ray that this process runs already is used and left running, so that a run of several stages starts it once.
    SIGTERM in the block raises KeyboardInterrupt, as Ctrl-C does.

    Raises:
        VtokError: Ray does not start, or the cluster cannot be reached.
    """
    if ray.is_initialized():
        yield
        return
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    embedded: Embedded | None = None
    try:
        with deferred():
            embedded = None if cluster.address else _prepare()
            _start(cluster, embedded)
        if main:
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # ray.init has put its own there
        yield
    finally:
        _shut_down(embedded)
        if main:
            signal.signal(signal.SIGTERM, before)


def _prepare() -> Embedded:
    try:
        return Embedded()
    except OSError as error:
        raise VtokError(
            f"Ray does not start: {error.strerror or error}",
            at=error.filename or "embedded Ray",
            hint="set TMPDIR to a folder that you may write to",
        ) from error


def _shut_down(embedded: Embedded | None) -> None:
    """Ends Ray undisturbed by signals.

    Half-way through it Ray gives SIGTERM back to the kernel, whose default would end this process and leave Ray's
    running. So Ray is shut down by another thread, and this one keeps its handlers in place.
    """

    def end() -> None:
        ray.shutdown()
        if embedded is not None:
            embedded.close()

    if threading.current_thread() is not threading.main_thread():
        end()
        return
    with undisturbed() as hold:
        ending = threading.Thread(target=end)
        ending.start()
        while ending.is_alive():
            hold()
            ending.join(_HOLD)


def _start(cluster: ClusterConfig, embedded: Embedded | None) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if embedded is None:
            ray.init(address=cluster.address, **common)
        else:
            _start_embedded(embedded, common)
    except SystemExit:  # Ray's answer to SIGTERM while it starts
        raise KeyboardInterrupt from None
    except Exception as error:  # Ray raises bare Exceptions, too
        ray.shutdown()
        raise VtokError(
            f"Ray does not start: {(str(error).splitlines() or [type(error).__name__])[0]}",
            at=cluster.address or "embedded Ray",
            hint="check cluster.address and RAY_AUTH_TOKEN"
            if cluster.address
            else "try again when the machine is less busy; see `vtok doctor`",
        ) from error


def _start_embedded(embedded: Embedded, common: dict[str, Any]) -> None:
    """Starts a Ray in this process; once more if its node is not up after the 30 s that Ray waits on a busy machine."""
    for attempt in range(2):
        try:
            ray.init(
                address="local",  # without it Ray looks for a cluster that someone else has started
                num_cpus=max(2, os.cpu_count() or 1),
                include_dashboard=False,
                object_store_memory=256 << 20,
                _node_ip_address=ADDRESS,
                _temp_dir=str(embedded.folder),
                **common,
            )
            return
        except Exception as error:
            if attempt or "timed out" not in str(error):
                raise
            console.note("Ray did not start in time; trying once more")
            ray.shutdown()
