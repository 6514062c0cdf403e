"""A worker process: takes runs from its pipe and does them, keeping libraries, weights and data.

Messages to a worker: ("prepare", config) or ("run", config); from it: (kind, run_id, details).
"""

import os
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.config import RunConfig
from benchmarks.record import Results
from methods.registry import InputError

from .claims import Claims


def work(pipe: Connection, place: dict[str, Any], results: str, plugins: list[str]) -> None:
    """The body of a worker process; returns when the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_die_with_parent, args=(os.getppid(),), daemon=True).start()
    import torch

    import methods
    from benchmarks import run

    torch.set_num_threads(place.pop("threads"))
    for plugin in plugins:
        methods.add_plugin(plugin)
    where, store, claims = run.Place(**place), Results(results), Claims(results)
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
        else:
            pipe.send(do(config, where, store, claims, pipe))


def do(config: RunConfig, where, store: Results, claims: Claims, pipe: Connection) -> tuple:
    """One run: claim it, execute it, write its record, release it."""
    from benchmarks import run

    run_id = config.run_id
    if not claims.take(run_id):
        time.sleep(1)  # before it is offered again
        return ("taken", run_id, None)
    try:
        found = store.read(run_id)
        if found is not None and found["status"] == "done":  # since the plan was made
            return ("done", run_id, found)

        def on_epoch(epoch: int, epochs: int, rate: float) -> None:
            try:
                pipe.send(("epoch", run_id, (epoch, epochs, rate)))
            except OSError:  # the sweep is gone: this must not count as the run's failure
                os._exit(1)

        record = run.execute(config, where, on_epoch)
        store.write(record)
        return (record["status"], run_id, record)
    finally:
        claims.release(run_id)


def _die_with_parent(parent: int) -> None:
    """A worker whose sweep was killed must not go on unseen."""
    while os.getppid() == parent:
        time.sleep(0.5)
    sys.stderr.flush()
    os._exit(1)
