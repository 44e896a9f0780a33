"""Tables of what `training.trust` measured: when a checkpoint warns, and how right it is where it gives an answer."""

from training.report.tables import markdown_table, with_interval


def gate_table(trust: dict) -> str:
    """Return how often each warning is given: wrongly on scans, and on each kind of image that is no brain MRI.

    Args:
        trust: `false_alarms` by code; `other_sources` by source; by kind of image `detected`, by a fit that saw no
            image of its family, and `detected_of_known_kind`, by a fit that saw others of its kind. Each is a measured
            number with its n.
    """
    rows = [[f"false alarm: `{code}`", *_counted(entry), "–"] for code, entry in trust.get("false_alarms", {}).items()]
    others = trust.get("other_sources", {})
    rows += [[f"warned about: {name}, held out", *_counted(entry), "–"] for name, entry in others.items()]
    known = trust.get("detected_of_known_kind", {})
    rows += [
        [f"warned about: {kind}", *_counted(entry), with_interval(known.get(kind))]
        for kind, entry in trust.get("detected", {}).items()
    ]
    return markdown_table(["Warning", "n", "share", "fitted on others of this kind"], rows)


def cannot_say_table(trust: dict) -> str:
    """Return a row per source: the share of scans that get an answer, and how many of the answers are wrong."""
    rows = [
        [name, *_counted(entry["coverage"]), with_interval(entry.get("error")), with_interval(entry["error_of_all"])]
        for name, entry in trust["cannot_say"].items()
    ]
    return markdown_table(["Scans", "n", "answered", "wrong of the answered", "wrong of all"], rows)


def _counted(entry: dict) -> list[str]:
    return [f"{entry['n']:,}", with_interval(entry)]
