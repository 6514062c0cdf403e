"""README's table of methods is what the registry says."""

import re
from pathlib import Path

from rlrr_bench.methods.__main__ import main

from rlrr_bench import methods

README = Path(__file__).resolve().parents[2] / "README.md"


def test_readme_lists_the_methods(capsys):
    assert main(["--markdown"]) == 0
    table = capsys.readouterr().out
    assert table.count("\n") == len(methods.names()) + 2
    block = re.search(r"<!-- methods -->\n(.*?)<!-- /methods -->", README.read_text(), re.DOTALL)
    assert block, f"{README}: no <!-- methods --> ... <!-- /methods --> around the table"
    assert block[1].strip() == table.strip(), "run: python -m methods --markdown"
