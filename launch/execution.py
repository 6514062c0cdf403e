"""Doing runs in this process: how it begins, and one run from claim to record."""

from pathlib import Path
from typing import TYPE_CHECKING

from .. import methods
from ..benchmarks import provenance
from ..benchmarks.config import RunConfig
from ..benchmarks.context import RunContext
from ..benchmarks.outcome import OnEpoch
from ..benchmarks.stamps import Memory, stamp_at_first
from ..benchmarks.store import Results
from .claims import Claims
from .messages import Finished, Taken

if TYPE_CHECKING:
    import torch


def begin(context: RunContext, threads: int) -> "torch.device":
    """Get this process ready to do runs: plug-ins, libraries, threads, a working device.

    It notes the code that it is going to run and imports all of it at once, so that the note stays
    true when files are edited later.

    Raises:
        InputError: a plug-in is no method, the code was edited meanwhile, or the device is broken.
    """
    for plugin in context.plugins:
        if plugin not in methods.plugins().values():  # by the command that this process began as
            methods.add_plugin(plugin)
    provenance.at_start()
    import torch

    from ..benchmarks import devices, run  # noqa: F401
    from ..methods import registry

    for name in registry.built_in():
        registry.module(name)
        registry.code_hash(name)
    provenance.confirm()
    torch.set_num_threads(threads)
    devices.keep_freed_memory()
    device = devices.choose(context.device)
    devices.check(device)
    return device


def do(
    config: RunConfig,
    context: RunContext,
    claims: Claims,
    *,
    on_epoch: OnEpoch | None = None,
    log: str | None = None,
) -> Finished | Taken:
    """One run: claim it, execute it, write its record, release it.

    Args:
        claims: of the results folder that gets the record.
        log: where this process's output goes, relative to the results folder.

    Returns:
        The record, whoever made it; or that another process has the run, or has taken it over
        because this one was thought dead: its record counts then, not ours.
    """
    from ..benchmarks import run

    results = Results(claims.results)
    if not claims.take(config.run_id):
        return Taken()
    try:
        record = results.read(config.run_id)
        if record is not None and record.done:  # since the plan was made
            return Finished(record)
        stamp = stamp_at_first(config.backbone, context.weights)
        record = run.execute(config, context, on_epoch).replace(log=log)
        if not claims.holds(config.run_id):
            return Taken()
        results.write(record)
        kept = results.read(config.run_id)
        if kept is not None and kept != record:  # this process was thought dead for a while
            print(f"{config.run_id}: another process was faster; its record counts", flush=True)
            return Finished(kept)
        Memory(claims.results).learn(stamp, record.weights_fingerprint)
        run.forget(config, context)
        return Finished(record)
    finally:
        claims.release(config.run_id)


def short(path: Path) -> Path:
    """A path as a person here would type it."""
    path = path.resolve()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
