"""A worker process: takes runs from its pipe and does them, keeping libraries, weights and data.

Messages to a worker: ("prepare", config) or ("run", config); from it: (kind, run_id, details).
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from benchmarks.config import RunConfig
from benchmarks.record import Results
from methods.registry import InputError

from .claims import Claims

if TYPE_CHECKING:
    from benchmarks import run


def work(pipe: Connection, place: dict[str, Any], results: str, plugins: list[str]) -> None:
    """The body of a worker process; returns when the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=die_with_parent, args=(os.getppid(),), daemon=True).start()
    import torch

    import methods
    from benchmarks import devices, run

    torch.set_num_threads(place.pop("threads"))
    devices.keep_freed_memory()
    for plugin in plugins:
        methods.add_plugin(plugin)
    where, store, claims = run.Place(**place), Results(results), Claims(results)
    device = devices.choose(where.device)
    try:
        devices.check(device)
    except InputError as error:
        pipe.send(("bad input", "", str(error)))
        return
    pipe.send(("ready", "", None))
    while True:
        try:
            kind, config = pipe.recv()
        except EOFError:
            return
        if kind == "prepare":
            try:
                run.prepare(config, where)
                pipe.send(("prepared", config.run_id, None))
            except InputError as error:
                pipe.send(("bad input", config.run_id, str(error)))
            continue

        def on_epoch(epoch: int, epochs: int, rate: float, run_id: str = config.run_id) -> None:
            try:
                pipe.send(("epoch", run_id, (epoch, epochs, rate)))
            except OSError:  # the sweep is gone: no failure of this run
                os._exit(1)

        said, record = do(config, where, store, claims, on_epoch)
        if said == "taken":
            time.sleep(1)  # before it is offered again
        if said == "failed" and not devices.works(device):  # a fresh process may do better
            pipe.send(("broken", config.run_id, record))
            return
        pipe.send((said, config.run_id, record))


def do(
    config: RunConfig,
    where: "run.Place",
    store: Results,
    claims: Claims,
    on_epoch: Callable[[int, int, float], None] | None = None,
    **more: Any,
) -> tuple[str, dict[str, Any] | None]:
    """One run: claim it, execute it, write its record, release it.

    Args:
        more: goes into the record.

    Returns:
        ("done" or "failed", the record), or ("taken", None): another process has the run, or has
        taken it over because this one was thought dead; its record counts then, not ours.
    """
    from benchmarks import run

    run_id = config.run_id
    if not claims.take(run_id):
        return "taken", None
    try:
        found = store.read(run_id)
        if found is not None and found["status"] == "done":  # since the plan was made
            return "done", found
        record = run.execute(config, where, on_epoch)
        if not claims.holds(run_id):
            return "taken", None
        store.write(record | more)
        run.forget(config, where)
        return record["status"], record
    finally:
        claims.release(run_id)


def die_with_parent(parent: int) -> None:
    """Exit when the parent has: a worker whose sweep was killed must not go on unseen."""
    while os.getppid() == parent:
        time.sleep(0.5)
    sys.stderr.flush()
    os._exit(1)
