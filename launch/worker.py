"""The body of a local worker process: does what it is sent, keeping libraries, weights and data."""

import os
import signal
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

from ..benchmarks.context import RunContext
from ..benchmarks.outcome import EpochDone
from ..methods.errors import InputError
from .claims import Claims
from .execution import begin, do
from .machine import die_with_parent
from .messages import Finished, InputsLoaded, Prepare, Ready, Refused, Reply, Taken
from .slurm import squeue


def work(pipe: Connection, context: RunContext, results: Path, threads: int) -> None:
    """Answer every Command from the pipe with Replies; return when the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=die_with_parent, args=(os.getppid(),), daemon=True).start()
    try:
        device = begin(context, threads)
    except InputError as error:
        pipe.send(Refused(str(error)))
        return
    from ..benchmarks import devices, run

    claims = Claims(results, squeue)

    def on_epoch(epoch: EpochDone) -> None:
        try:
            pipe.send(epoch)
        except OSError:  # the sweep is gone: no failure of this run
            os._exit(1)

    pipe.send(Ready())
    while True:
        try:
            command = pipe.recv()
        except EOFError:
            return
        reply: Reply
        if isinstance(command, Prepare):
            try:
                run.prepare(command.config, context)
                reply = InputsLoaded()
            except InputError as error:
                reply = Refused(str(error))
        else:
            reply = do(command.config, context, claims, on_epoch=on_epoch)
        if isinstance(reply, Taken):
            time.sleep(1)  # before it is offered again
        lost = isinstance(reply, Finished) and not reply.record.done and not devices.works(device)
        if isinstance(reply, Finished) and lost:  # a fresh process may do better
            pipe.send(Finished(reply.record, device_lost=True))
            return
        pipe.send(reply)
