"""Titles that programs make up, and the choice of one."""

import re

NO_TITLE = re.compile(
    r"\W*|\d+|\(?(untitled|anonymous|unspecified|unknown|none|null|title|(untitled |new )?document|unbenannt|sans titre"
    r"|(powerpoint )?presentation|slide|book|layout|print|scan|workbook|mappe|word document)\)?[ \d.-]*"
    r"|microsoft (word|powerpoint|excel) - .*"
    r"|.*\.(doc[xm]?|pdf|ppt[xm]?|xls[xm]?|od[tps]|rtf|indd|qxd)( - google docs)?"
    r"|\S*\.(tex|dvi|e?ps|fm|pmd|p65|cdr|html?|txt)",
    re.IGNORECASE,
)


def chosen_title(*candidates: str) -> str:
    """The first candidate that a person may have written; empty if there is none."""
    lines = (" ".join(text.split()) for text in candidates)
    return next((line for line in lines if NO_TITLE.fullmatch(line) is None), "")
