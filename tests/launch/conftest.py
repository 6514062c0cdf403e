"""What tests of the command line share."""

import pytest

from rlrr_bench.methods import registry


@pytest.fixture(autouse=True)
def no_plug_ins_left(monkeypatch):
    """A command that is typed in this process registers its plug-ins for this test alone."""
    monkeypatch.setattr(registry, "_plugins", {})
    registry._forget()
    yield
    registry._forget()
