"""Markdown tables for model cards and the README: test metrics, and how good the maps of each method are.

The functions take the content of metrics.json and explanations.json; in both a measured number is a dict
`{"value", "low", "high"}`, in explanations.json with "n".
"""

from collections.abc import Iterable, Sequence

from brain_xai.methods import METHODS

METRIC_NAMES = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "macro_f1": "Macro-F1",
    "precision": "Precision",
    "recall": "Recall",
    "f1": "F1",
    "auroc": "AUROC",
    "auroc_macro": "Macro AUROC",
    "tumor_miss_rate": "Tumor miss rate",
    "nll": "NLL",
    "brier": "Brier score",
    "ece": "ECE",
}
EXPLANATION_MEASURES = {"pointing_game": "pointing game", "energy_lift": "energy, times chance", "srg": "SRG"}
MEASURE_DEFINITIONS = (
    "Pointing game: how often the highest pixel of the map lies inside the tumor box. Energy: share of the positive "
    "evidence inside the box, over the box's share of the image. SRG: how much sooner the probability falls when the "
    "most important pixels are replaced first instead of last."
)
# Columns of answers that a change of the image alters: the most of these changes.
CHANGED_ANSWERS = {
    "changed by framing": ("padded", "cropped"),
    "by brightness": ("darker", "brighter", "less contrast"),
    "by inversion": ("inverted",),
}
# A kind of scans from another source has a row of its own in the README from this number of scans on.
MIN_SCANS = 50
# What a map that knows nothing of the model scores.
CHANCE_ROWS = {"uniform": "The same evidence everywhere.", "center": "A soft blob in the middle of the image."}


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Return a Markdown table; the first `left` columns are aligned left, the others right."""
    lines = [header, ["---"] * left + ["---:"] * (len(header) - left), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def with_interval(entry: dict | None) -> str:
    """Return a measured number as `0.965 [0.953, 0.976]`, or – where there is no value."""
    if entry is None or entry["value"] is None:
        return "–"
    value = f"{entry['value']:.3f}"
    return value if entry["low"] is None else f"{value} [{entry['low']:.3f}, {entry['high']:.3f}]"


def with_small_interval(entry: dict | None) -> str:
    """Return a measured number with two digits and its interval in small print, or – where there is no value."""
    if entry is None or entry["value"] is None:
        return "–"
    value, low, high = (_two_digits(entry[key]) for key in ("value", "low", "high"))
    return f"{value} <sub>[{low}, {high}]</sub>"


def _two_digits(number: float) -> str:
    decimals = 0 if abs(number) >= 9.95 else 1 if abs(number) >= 0.995 else 2
    return f"{round(number, decimals) + 0:.{decimals}f}"  # + 0 turns -0.0 into 0.0


def named_entries(test: dict, metric: str) -> dict[str, dict]:
    """Return the numbers of one metric by display name: one, one per class, or none where it is not defined."""
    name, entry = METRIC_NAMES[metric], test[metric]
    if entry is None:
        return {}
    return {name: entry} if "value" in entry else {f"{name}, {label}": entry[label] for label in entry}


def results_table(columns: dict[str, dict], metrics: Sequence[str], more: Sequence[Sequence[str]] = ()) -> str:
    """Return a table of test metrics; its caption names n, seed and the kind of interval.

    Args:
        columns: The content of one metrics.json per column, by the title of the column.
        metrics: Keys of `METRIC_NAMES`; a metric with a value per class gets a row for each class.
        more: Further rows, put first.
    """
    tests = [column["test"] for column in columns.values()]
    rows = [*more]
    for metric in metrics:
        named = [named_entries(test, metric) for test in tests]
        names = dict.fromkeys(name for entries in named for name in entries)
        rows += [[name, *(with_interval(entries.get(name)) for entries in named)] for name in names]
    return f"{markdown_table(['Test images', *columns], rows)}\n\n{_results_caption(columns)}"


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


def _short(kind: str) -> str:
    """Shorten the name of a kind of scans: several classes together mean a tumor of unknown kind."""
    source, *words = kind.split(" ")
    if "or" in words:
        words = [*filter(str.isupper, words), "tumor"]  # the sequence, where known
    return f"{source}, {' '.join(words)}"


def _results_caption(columns: dict[str, dict]) -> str:
    titles_by_size, intervals = {}, []
    for title, column in columns.items():
        test, interval = column["test"], column["test"]["interval"]
        size = f"n = {test['n']:,} test images in {test['groups']:,} duplicate groups, training seed {column['seed']}"
        titles_by_size.setdefault(size, []).append(title)
        intervals.append(f"{interval['level']:.0%} interval, {interval['method']} ({interval['samples']:,} samples)")
    sizes = titles_by_size.items()
    named = (size if len(sizes) == 1 else f"{' and '.join(titles)}: {size}" for size, titles in sizes)
    return f"Value [low, high]: {'; '.join(dict.fromkeys(intervals))}. {'; '.join(named)}."


def explanations_table(explanations: dict) -> str:
    """Return how good the maps of one checkpoint are, methods and baselines in rows, for its card."""
    titles = {key: f"`{key}`" for key in explanations["methods"]}
    titles |= {key: f"*{key.replace('_', ' ')}*" for key in explanations["baselines"]}
    measured = explanations["methods"] | explanations["baselines"]
    rows = [
        [title, *(_with_n(measured[key].get(name)) for name in EXPLANATION_MEASURES)] for key, title in titles.items()
    ]
    test, interval = explanations["sets"]["test"]["n"], explanations["interval"]
    caption = [
        f"Value [low, high]: {interval['level']:.0%} interval, {interval['method']}.",
        MEASURE_DEFINITIONS,
        "In italics: maps that know nothing of the model.",
        f"{explanations['split'].capitalize()} split, {test:,} test images with a tumor box, seed "
        f"{explanations['seed']}, {explanations['target']} class explained, {explanations['image_size'][1]} px, "
        f"pixels replaced by {explanations['baseline']} ones for SRG.",
        *_alignment_caption(explanations),
    ]
    return f"{markdown_table(['Maps', *EXPLANATION_MEASURES.values()], rows)}\n\n{' '.join(caption)}"


def _with_n(entry: dict | None) -> str:
    return "–" if entry is None else f"{with_interval(entry)}, n = {entry['n']}"


def _alignment_caption(explanations: dict) -> list[str]:
    """Compare Grad-CAM at the measured receptive fields with the usual stretched map, where that was measured."""
    if not (compared := explanations.get("alignment", {}).get("grad_cam")):
        return []
    pointing = compared["pointing_game"]
    return [
        "Grad-CAM, pointing game: each position of the feature map drawn at the measured center of its receptive field "
        f"{with_interval(pointing['aligned'])}; feature map stretched over the image, as is usual "
        f"{with_interval(pointing['stretched'])}; difference {_with_n(pointing['difference'])}."
    ]


def maps_table(name: str, explanations: dict | None) -> str:
    """Return all methods, what they show and cost, and how good the maps of one checkpoint are, for the README.

    Args:
        name: The checkpoint's name.
        explanations: The content of its explanations.json; None where its maps were not measured.
    """
    methods, baselines = ((explanations or {}).get(key, {}) for key in ("methods", "baselines"))

    def scores(measured: dict) -> list[str]:
        return [with_small_interval(measured.get(measure)) for measure in EXPLANATION_MEASURES]

    rows = [
        [f"[{m.title}]({m.paper})", f"`{key}`", m.summary, str(m.forward_passes), *scores(methods.get(key, {}))]
        for key, m in METHODS.items()
    ]
    rows += [
        [f"*{key}*", "", shows, "", *scores(baselines[key])] for key, shows in CHANCE_ROWS.items() if key in baselines
    ]
    table = markdown_table(["method", "key", "what it shows", "cost", *EXPLANATION_MEASURES.values()], rows, left=3)
    caption = _maps_caption(name, explanations) if explanations else f"The maps of `{name}` are not measured yet."
    return f"{table}\n\n{caption}"


def _maps_caption(name: str, explanations: dict) -> str:
    interval, methods = explanations["interval"], explanations["methods"]
    localized, replaced = (_sample_sizes(methods, measure) for measure in ("pointing_game", "srg"))
    return (
        f"`{name}`, {explanations['split']} split, seed {explanations['seed']}: value [{interval['level']:.0%} "
        f"interval, {interval['method']}] on test images with a tumor box, n = {localized}; SRG: n = {replaced}. "
        f"Cost: forward passes per image. In italics: chance. {MEASURE_DEFINITIONS}"
    )


def _sample_sizes(methods: dict[str, dict], measure: str) -> str:
    """Return the number of images most methods were measured on, and the methods with another one by number."""
    by_size = {}
    for key, measured in methods.items():
        by_size.setdefault(measured[measure]["n"], []).append(f"`{key}`")
    usual = max(by_size, key=lambda n: len(by_size[n]))
    others = [f"{', '.join(keys)}: {n}" for n, keys in by_size.items() if n != usual]
    return f"{usual} ({'; '.join(others)})" if others else f"{usual}"


def sources_table(shortcuts: dict) -> str:
    """Return how often the scans of each source are answered rightly, and how often a harmless change alters that.

    Args:
        shortcuts: What `training.shortcuts` measured: `kinds` by name.

    Returns:
        A Markdown table with a row per kind of scan.
    """
    rows = []
    for kind, measured in shortcuts["kinds"].items():
        entry = measured["tumor_or_not"]
        changed = {name: change["value"] for name, change in measured["changed_answers"].items()}
        shares = (max(changed[name] for name in names) for names in CHANGED_ANSWERS.values())
        counts = [f"{entry['n']:,}", f"{entry['units']:,}"]
        right = [with_interval(entry), with_interval(measured.get("class"))]
        rows.append([kind, *counts, *right, *(f"{share:.2f}" for share in shares)])
    return markdown_table(["Scans", "n", "patients or images", "tumor or not", "class", *CHANGED_ANSWERS], rows)
