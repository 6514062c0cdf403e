"""README's table of methods is what the registry says."""

import re
from pathlib import Path

from rlrr_bench import methods
from rlrr_bench.launch.cli import main

README = Path(__file__).resolve().parents[2] / "README.md"


def test_readme_lists_the_methods(capsys):
    assert main(["methods", "--markdown"]) == 0
    table = capsys.readouterr().out
    assert table.count("\n") == len(methods.names()) + 2
    block = re.search(r"<!-- methods -->\n(.*?)<!-- /methods -->", README.read_text(), re.DOTALL)
    assert block, f"{README}: no <!-- methods --> ... <!-- /methods --> around the table"
    assert block[1].strip() == table.strip(), "run: rlrr-bench methods --markdown"
