"""Cells of a table that a spreadsheet shows as they are."""

# A cell that starts like this is a formula for a spreadsheet, and could do harm.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "|", "%")


def cell(text: str) -> str:
    """Return a text for a cell: one that looks like a formula gets an apostrophe in front; a number is none."""
    return f"'{text}" if text.lstrip(" ").startswith(FORMULA_STARTS) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
