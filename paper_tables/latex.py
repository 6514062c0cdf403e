"""A table as LaTeX: booktabs, grouped columns, rotated headings; by pandas' Styler."""

import pandas as pd

from .build import UNNAMED, Built

SYMBOLS = {"≤": r"$\leq$", "–": "--", "±": r"$\pm$"}


def table(built: Built, text: pd.DataFrame) -> str:
    """A `table*` float, to be put in a document that loads booktabs, multirow and graphicx."""
    frame = text.copy()
    frame.columns = pd.MultiIndex.from_tuples(
        [
            ("" if group in UNNAMED else group.capitalize(), rotated(heading))
            for group, heading in frame.columns
        ]
    )
    two = isinstance(frame.index, pd.MultiIndex)
    if two:
        labels = [
            escape(label) if source == "ours" else r"\quad\textit{printed}"
            for label, source in frame.index
        ]
    else:
        labels = [escape(label) for label in frame.index]
    frame.index = pd.Index(labels)
    styler = frame.map(escape).style
    body = styler.to_latex(
        hrules=True,
        column_format="l" + "r" * len(frame.columns),
        multicol_align="c",
        environment=None,
    )
    caption = f"{escape(built.title.split(': ', 1)[-1])}. {escape(built.note)}"
    return (
        "\\begin{table*}[t]\n\\centering\n\\setlength{\\tabcolsep}{3pt}\n"
        f"\\caption{{{caption}}}\n\\label{{tab:{built.spec.name}}}\n"
        f"\\resizebox{{\\linewidth}}{{!}}{{%\n{body.strip()}%\n}}\n\\end{{table*}}\n"
    )


def rotated(heading: str) -> str:
    return rf"\rotatebox{{90}}{{{escape(heading)}}}"


def escape(text: str) -> str:
    """Plain text as LaTeX."""
    for character in "&%$#_{}":
        text = text.replace(character, "\\" + character)
    for symbol, latex in SYMBOLS.items():
        text = text.replace(symbol, latex)
    return text
