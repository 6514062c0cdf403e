"""The HTML page, in headless Chromium: sorts, switches views, fits a phone, no console errors."""

import os
import re
import shutil
from pathlib import Path

import printed_records
import pytest

from rlrr_bench.benchmarks.record import RunRecord
from rlrr_bench.benchmarks.store import Results
from rlrr_bench.launch.cli import main
from rlrr_bench.paper_tables import specs
from rlrr_bench.paper_tables.plan import plan

FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--disable-quic", "--disable-sync", "--disable-background-networking"),
    "--disable-component-update",
]


@pytest.fixture(scope="module")
def page(shared) -> str:
    """The path of a report on Tables 2 and 3: a row and a cell missing, a failure, bad files."""

    def make(root: Path) -> None:
        results = Results(root)
        printed_records.write(root, "table2")
        printed_records.write(root, "table3", git_dirty=True)
        cells = plan(printed_records.request("table2", rows=("bias",)))
        for cell in cells:
            results.path(cell.config.run_id).unlink()
        results.write(RunRecord.failed(cells[0].config, "ValueError: <b>odd</b> pixels"))
        (results.runs / "damaged.json").write_text("{")
        assert main(["report", *words(root)]) == 0

    return str(shared("report", make) / "report.html")


def words(root: Path) -> list[str]:
    out = str(root / "report.html")
    return ["--profile", "paper", "--results", str(root), "--out", out]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        assert not os.environ.get("CI"), "chromium and chromedriver must be there in CI"
        pytest.skip("chromium or chromedriver is not installed")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options, service)
    yield driver
    driver.quit()


def test_the_page_is_self_contained_and_escapes(page):
    text = Path(page).read_text(encoding="utf-8")
    outside = re.findall(r"(?:src|href)=\"(?!data:|#)([^\"]*)\"|url\(|@import", text)
    assert outside == []
    assert "&lt;b&gt;odd&lt;/b&gt;" in text and "<b>odd" not in text
    assert len(text) < 3_000_000


@pytest.mark.slow
def test_in_a_browser(page, browser):
    def find(css: str):
        return browser.find_elements("css selector", css)

    def column(n: int, table: str = "#table2") -> list[str]:
        return [cell.text for cell in find(f"{table} tbody tr td:nth-child({n})")]

    browser.set_window_size(1300, 900)
    browser.get(f"file://{page}")
    spec = specs.spec("table2")
    assert column(1) == [row.label for row in spec.rows.values()]
    headings = [th.text for th in find("#table2 thead tr:last-child th")]
    mean = headings.index("Mean of 19 tasks") + 1
    assert column(mean)[-1] == "75.1" and column(mean)[3] == "–"  # Bias has no runs
    assert find("#table2 tbody tr:last-child td:nth-child(2) .best")[0].text == "76.7"

    button = find(f"#table2 thead tr:last-child th:nth-child({mean}) button")[0]
    browser.execute_script("arguments[0].click()", button)
    values = column(mean)
    assert values[0] == "75.1" and values[-1] == "–"
    assert values[:-1] == sorted(values[:-1], key=float, reverse=True)
    browser.execute_script("arguments[0].click()", button)
    values = column(mean)
    assert values[-1] == "–" and values[:-1] == sorted(values[:-1], key=float)

    find("button[data-to=printed]")[0].click()
    values = column(mean)
    assert "62.1‡" in values and values == sorted(values, key=lambda v: float(v.rstrip("‡")))
    find("button[data-to=compare]")[0].click()
    row = find("#table2 tbody tr")[column(1).index("RLRR*")]
    text = row.find_elements("css selector", "td")[13].text  # the mean of the specialized group
    assert text.split() == ["87.4", "±0.0", "87.3‡", "+0.1"]
    assert find("button[data-to=compare]")[0].get_attribute("aria-pressed") == "true"
    find("button[data-to=ours]")[0].click()

    first = find("#table2 thead tr:last-child th:first-child button")[0]
    browser.execute_script("arguments[0].click()", first)
    assert column(1)[0] == "Adapter" and column(1)[-1] == "VPT-Shallow"

    assert "ValueError: <b>odd</b> pixels" in find("#failures")[0].text
    assert "damaged.json" in find("#kept-apart-or-marked")[0].get_attribute("textContent")
    assert "Bias: 19 cells" in find("#table2 details")[0].get_attribute("textContent")
    assert "†" in find("#table3 tbody")[0].text
    images = browser.execute_script("return [...document.images].map(i => i.naturalWidth)")
    assert len(images) >= 6 and all(images)

    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True},
    )
    width = browser.execute_script("return document.documentElement.scrollWidth")
    assert width == 390  # tables scroll inside the page, the page does not
    errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert errors == []


def test_without_printed_numbers_there_are_no_views_to_choose(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["report", "--profile", "demo"]) == 0
    path = Path("paper_tables") / "out" / "demo" / "report.html"
    assert capsys.readouterr().out.startswith(f"{path}  ")
    text = path.read_text(encoding="utf-8")
    assert "data-to=" not in text and "Table 2, demo profile" in text
    assert "data-to=" in Path(page).read_text(encoding="utf-8")
