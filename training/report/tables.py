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
# What a map that knows nothing of the model scores.
CHANCE_ROWS = {"uniform": "The same evidence everywhere.", "center": "A soft blob in the middle of the image."}


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Return a Markdown table; the first `left` columns are aligned left, the others right."""
    lines = [header, ["---"] * left + ["---:"] * (len(header) - left), *rows]
    escaped = ([cell.replace("|", r"\|") for cell in line] for line in lines)  # the name of a class may hold any sign
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def with_interval(entry: dict | None) -> str:
    """Return a measured number as `0.965 [0.953, 0.976]`, or – where there is no value."""
    if entry is None or entry["value"] is None:
        return "–"
    value = f"{entry['value']:z.3f}"  # z: no -0.000
    return value if entry["low"] is None else f"{value} [{entry['low']:z.3f}, {entry['high']:z.3f}]"


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


def results_table(
    columns: dict[str, dict],
    metrics: Sequence[str],
    first: Sequence[Sequence[str]] = (),
    last: Sequence[Sequence[str]] = (),
) -> str:
    """Return a table of test metrics; its caption names n, seed and the kind of interval.

    Args:
        columns: The content of one metrics.json per column, by the title of the column.
        metrics: Keys of `METRIC_NAMES`; a metric with a value per class gets a row for each class.
        first: Further rows, put first.
        last: Further rows, put last.
    """
    tests = [column["test"] for column in columns.values()]
    rows = [*first]
    for metric in metrics:
        named = [named_entries(test, metric) for test in tests]
        names = dict.fromkeys(name for entries in named for name in entries)
        rows += [[name, *(with_interval(entries.get(name)) for entries in named)] for name in names]
    return f"{markdown_table(['Test images', *columns], [*rows, *last])}\n\n{_results_caption(columns)}"


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


def maps_elsewhere_table(elsewhere: dict) -> str:
    """Return where the maps lie on scans of other sources: a row per kind of scan and method, and a caption."""
    rows = []
    for kind, measured in elsewhere["kinds"].items():
        named = {f"`{name}`": entries for name, entries in measured["methods"].items()}
        named |= {f"*{name}*": measured["baselines"][name] for name in CHANCE_ROWS if name in measured["baselines"]}
        for name, entries in named.items():
            rows.append([kind, name, *(_with_n(entries[measure]) for measure in ("pointing_game", "energy_lift"))])
    titles = [EXPLANATION_MEASURES[measure] for measure in ("pointing_game", "energy_lift")]
    caption = f"{elsewhere['interval']['level']:.0%} intervals, {elsewhere['interval']['method']}."
    return f"{markdown_table(['Scans', 'maps', *titles], rows, left=2)}\n\n{caption}"


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
