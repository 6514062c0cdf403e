"""What tests of the command line share."""

import pytest


@pytest.fixture(autouse=True)
def _no_plug_ins_left(no_plugins: None) -> None:
    """A command that is typed in this process registers its plug-ins for this test alone."""
