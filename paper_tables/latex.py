"""A view of a table as LaTeX: booktabs, grouped columns, multirow rows; by pandas' Styler."""

import re
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

import pandas as pd

from .. import methods
from .views import DIRTY, FLAG, MIXED, OUTDATED, UNNAMED, Sheet

MARKED = {DIRTY: r"\dagger", FLAG: r"\ddagger", MIXED: r"\S", OUTDATED: r"\P"}
SYMBOLS = {"≤": r"$\leq$", "–": "--", "±": r"$\pm$"}
CSS = {"best": "textbf:--rwrap;", "second": "underline:--rwrap;", "": ""}
WHAT = {"ours": "ours", "std": r"$\pm$", "printed": "printed", "delta": r"$\Delta$"}
PACKAGES = ("booktabs", "multirow", "graphicx", "adjustbox", "amssymb")
PAPER = "Dong et al., CVPR 2024"
TICKS = {True: r"\checkmark", False: r"$\times$"}
RAGGED = r"""% a checkpoint's name in a narrow caption cannot be broken
\usepackage[justification=raggedright]{caption}
"""
FULL_PAGES = r"""% nothing but floats: fill the pages from the top
\renewcommand{\floatpagefraction}{.7}
\renewcommand{\dblfloatpagefraction}{.7}
\extrafloats{50}
\makeatletter
\@fptop=0pt \@dblfptop=0pt \@fpsep=24pt \@dblfpsep=24pt
\makeatother
"""
MARKS = "Bold: best, underlined: second best, among the rows of one checkpoint."
ROTATED = 10  # with more columns than these the headings stand upright, in a float of full width


def table(sheet: Sheet) -> str:
    """A float; the document loads PACKAGES."""
    frame, two = sheet.text.map(escape), sheet.text.index.nlevels == 2
    spec = sheet.table.spec
    ticks = () if two else spec.ticks
    many = len(frame.columns) > ROTATED
    frame.columns = pd.MultiIndex.from_tuples(
        [
            ("" if group in UNNAMED else group.capitalize(), _heading(heading, many))
            for group, heading in frame.columns
        ]
    )
    if all(group == "" for group, _ in frame.columns):
        frame.columns = frame.columns.droplevel(0)
    if two:
        frame.index = pd.MultiIndex.from_tuples(
            [(escape(label), WHAT[what]) for label, what in frame.index]
        )
    elif ticks:
        rows = {cell.row.label: cell.row for cell in sheet.table.cells}
        on = {label: methods.options(row.method, row.options) for label, row in rows.items()}
        frame.index = [
            " & ".join(TICKS[getattr(on[label], name)] for name in ticks) for label in frame.index
        ]
    else:
        frame.index = [escape(label) for label in frame.index]
    marks = sheet.marks.map(CSS.get).set_axis(frame.index).set_axis(frame.columns, axis=1)
    body = frame.style.apply(lambda _: marks, axis=None).to_latex(
        hrules=True,
        column_format="l" * frame.index.nlevels + "r" * len(frame.columns),
        multicol_align="c",
        multirow_align="t",
        environment=None,
    )
    if ticks:  # an index of one column stands for these
        lines = body.splitlines()
        last = lines.index(r"\midrule") - 1
        lines[0] = lines[0].replace("{l", "{" + "c" * len(ticks), 1)
        for i in range(lines.index(r"\toprule") + 1, last + 1):
            names = [escape(name) if i == last else "" for name in ticks]
            lines[i] = " & ".join([*names, lines[i].partition("&")[2].strip()])
        body = "\n".join(lines)
    body = _rules(body, sheet, two, 2 + two + max(0, len(ticks) - 1))
    kind = "table*" if len(frame.columns) > 4 else "table"
    name = sheet.table.name + ("" if sheet.view == "ours" else f"-{sheet.view}")
    number, _, title = sheet.title.partition(": ")
    marked = f" {MARKS}" if (sheet.marks != "").any(axis=None) else ""
    caption = escape(f"{PAPER}, {number}: {title}. {' '.join(sheet.notes)}{marked}")
    for symbol in MARKED.values():  # set apart from its explanation in running text
        caption = caption.replace(rf"\rlap{{$^{symbol}$}}", rf"$^{symbol}$")
    return (
        f"\\begin{{{kind}}}[t]\n\\centering\n\\setlength{{\\tabcolsep}}{{3pt}}\n"
        f"\\caption{{{caption}}}\n\\label{{tab:{name}}}\n"
        "\\begin{adjustbox}{max width=\\linewidth,max totalheight=.85\\textheight}\n"
        f"{body.strip()}\n\\end{{adjustbox}}\n\\end{{{kind}}}\n"
    )


def figure(stem: str, caption: str) -> str:
    """A float with the figure `stem`.pdf."""
    return (
        "\\begin{figure}[t]\n\\centering\n"
        f"\\includegraphics[width=\\linewidth]{{{stem}.pdf}}\n"
        f"\\caption{{{escape(caption)}}}\n\\label{{fig:{stem}}}\n\\end{{figure}}\n"
    )


def document(tables: Iterable[str], figures: Iterable[str]) -> str:
    """A two-column document of everything: files to input, and figure floats."""
    packages = "".join(f"\\usepackage{{{name}}}\n" for name in PACKAGES)
    inputs = "".join(f"\\input{{{Path(name).name}}}\n" for name in tables)
    return (
        "\\documentclass[10pt,twocolumn,a4paper]{article}\n"
        f"\\usepackage[margin=2cm]{{geometry}}\n{packages}{RAGGED}{FULL_PAGES}"
        f"\\begin{{document}}\n{inputs}\\clearpage\n{''.join(figures)}\\end{{document}}\n"
    )


def _heading(heading: str, upright: bool) -> str:
    return rf"\rotatebox{{90}}{{{escape(heading)}}}" if upright else escape(heading)


def _rules(body: str, sheet: Sheet, two: bool, left: int) -> str:
    """Rules under groups of columns, the first of which is column `left`, and between groups of
    rows; in the compare view a little space between rows."""
    lines = body.splitlines()
    names, under = [group for group, _ in sheet.text.columns], ""
    for name, same in groupby(names):
        right = left + len(list(same)) - 1
        under += "" if name in UNNAMED else rf"\cmidrule(lr){{{left}-{right}}}"
        left = right + 1
    if under:
        lines.insert(lines.index(r"\toprule") + 2, under)
    first = lines.index(r"\midrule") + 1
    per_row = len(sheet.text) // sheet.text.index.get_level_values(0).nunique() if two else 1
    for after in range(len(sheet.text) - 1, 0, -1):
        if after in sheet.breaks:
            lines.insert(first + after, r"\midrule")
        elif two and after % per_row == 0:
            lines.insert(first + after, r"\addlinespace")
    return "\n".join(lines)


def escape(text: str) -> str:
    """Plain text as LaTeX."""
    text = text.replace("\\", "/")
    for character in "&%$#_{}":
        text = text.replace(character, "\\" + character)
    for symbol, latex in SYMBOLS.items():
        text = text.replace(symbol, latex)
    return re.sub(f"[{''.join(MARKED)}]+", _raised, text)


def _raised(marks: re.Match[str]) -> str:
    """The marks behind a number, side by side; they take no width."""
    symbols = " ".join(MARKED[mark] for mark in marks.group())
    raised = symbols if len(marks.group()) == 1 else f"{{{symbols}}}"
    return rf"\rlap{{$^{raised}$}}"
