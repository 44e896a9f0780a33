"""Markdown tables of what `training.shortcuts` measured: scans from other sources, trust, and shortcuts.

The functions take the part "shortcuts" of metrics.json.
"""

from training.report.tables import markdown_table, with_interval

# Columns of answers that a change of the image alters: the most of these changes.
CHANGED_ANSWERS = {
    "changed by framing": ("padded", "cropped"),
    "by brightness": ("darker", "brighter", "less contrast"),
    "by inversion": ("inverted",),
}
# A kind of scans from another source has a row of its own in the README from this number of scans on.
MIN_SCANS = 50


def group_rows(columns: dict[str, dict]) -> list[list[str]]:
    """Return the first rows of `results_table`: the worst group of scans and the mean of all groups.

    Args:
        columns: The content of one metrics.json per column, by the title of the column.
    """
    groups = [column.get("shortcuts", {}).get("groups", {}) for column in columns.values()]
    if not any(groups):
        return []
    worst = [
        f"{with_interval(group['worst'])} ({_short(group['worst']['name'])})" if group else "–" for group in groups
    ]
    return [["Worst group", *worst], ["Mean of groups", *(with_interval(group.get("mean")) for group in groups)]]


def away_rows(columns: dict[str, dict]) -> list[list[str]]:
    """Return rows for `results_table`: how often tumor and no tumor are told apart on scans from other sources."""
    measured = [column.get("shortcuts", {}).get("kinds", {}) for column in columns.values()]
    kinds = dict.fromkeys(
        kind
        for kinds in measured
        for kind, shares in kinds.items()
        if kind != "test" and shares["tumor_or_not"]["n"] >= MIN_SCANS
    )
    rows = []
    for kind in kinds:
        entries = [kinds[kind]["tumor_or_not"] if kind in kinds else None for kinds in measured]
        n = next(entry["n"] for entry in entries if entry)
        rows.append([f"Away: {_short(kind)} (n = {n})", *map(with_interval, entries)])
    return rows


def coverage_rows(columns: dict[str, dict]) -> list[list[str]]:
    """Return the last row of `results_table`: the accuracy of the surest answers."""
    trusted = [column.get("shortcuts", {}).get("confidence", {}).get("test, class", {}) for column in columns.values()]
    title = next((f"Accuracy at {part['coverage']:.0%} coverage" for part in trusted if part), None)
    return [[title, *(with_interval(part.get("accuracy_at_coverage")) for part in trusted)]] if title else []


def worst_group_sentence(shortcuts: dict) -> str:
    """Return how often tumor and no tumor are told apart in the worst group of scans, beside the mean."""
    groups = shortcuts["groups"]
    if not groups:
        return "No group of scans is large enough to be measured on its own."
    worst, mean = groups["worst"], groups["mean"]
    return (
        f"Tumor told from no tumor: {with_interval(worst)} in the worst group of scans, {worst['name']} "
        f"(n = {worst['n']:,}); {with_interval(mean)} on the mean of {mean['groups']} groups."
    )


def sources_table(shortcuts: dict) -> str:
    """Return a row per kind of scans: how often it is answered rightly, and how often a harmless change alters that."""
    rows = []
    for kind, measured in shortcuts["kinds"].items():
        entry = measured["tumor_or_not"]
        changed = {name: change["value"] for name, change in measured["changed_answers"].items()}
        shares = (max(changed[name] for name in names) for names in CHANGED_ANSWERS.values())
        counts = [f"{entry['n']:,}", f"{entry['units']:,}"]
        right = [with_interval(entry), with_interval(measured.get("class"))]
        gain = f"{measured['mirror_averaged']['tumor_or_not']['value']:+.3f}"
        rows.append([kind, *counts, *right, gain, *(f"{share:.2f}" for share in shares)])
    header = ["Scans", "n", "patients or images", "tumor or not", "class", "with mirror image", *CHANGED_ANSWERS]
    return markdown_table(header, rows)


def confidence_table(shortcuts: dict) -> str:
    """Return a row per source: how far the probabilities of the answers can be trusted."""
    measured = shortcuts["confidence"]
    coverage = next(iter(measured.values()))["coverage"]
    columns = ("accuracy", "ece", "auroc", "accuracy_at_coverage")
    rows = [
        [source, f"{part['n']:,}", *(with_interval(part[column]) for column in columns)]
        for source, part in measured.items()
    ]
    header = ["Scans", "n", "accuracy", "ECE", "AUROC for errors", f"accuracy at {coverage:.0%} coverage"]
    return markdown_table(header, rows)


def looks_table(shortcuts: dict) -> str:
    """Return a row per group of test images that look alike."""
    looks = shortcuts["clusters"]
    labels = next(iter(looks.values()))["classes"]
    rows = [
        [
            name,
            f"{look['class']['n']:,} ({look['class']['units']:,})",
            *(f"{count:,}" for count in look["classes"].values()),
            f"{look['brightness']:.2f}",
            f"{look['filled']:.2f}",
            with_interval(look["class"]),
            with_interval(look["tumor_or_not"]),
        ]
        for name, look in looks.items()
    ]
    counts = [f"`{label}`" for label in labels]
    return markdown_table(["Look", "n (distinct)", *counts, "brightness", "filled", "class", "tumor or not"], rows)


def cues_table(shortcuts: dict) -> str:
    """Return how well the class can be told without looking at the brain, from files and from what the model sees."""
    file, view = shortcuts["cues"]["file"], shortcuts["cues"]["view"]
    rows = [[cue, with_interval(entry), with_interval(view.get(cue))] for cue, entry in file.items()]
    return markdown_table(["Told from", "file as it comes", "what the model sees"], rows)


def _short(kind: str) -> str:
    """Shorten the name of a kind of scans: several classes together mean a tumor of unknown kind."""
    if "," in kind:  # a look of test images
        return kind
    source, *words = kind.split(" ")
    if "or" in words:
        words = [*filter(str.isupper, words), "tumor"]  # the sequence, where known
    return f"{source}, {' '.join(words)}"
