"""What `training.shortcuts` writes, with made-up numbers, for tests of tables and cards."""

ENTRY = {"value": 0.75, "low": 0.5, "high": 0.875, "n": 1234, "units": 12}
CHANGES = ("padded", "cropped", "darker", "brighter", "less contrast", "inverted", "mirrored")


def shortcuts(kinds: dict[str, dict] | None = None) -> dict:
    """Return the part "shortcuts" of a metrics.json; a kind has at least "tumor_or_not"."""
    changes = {name: ENTRY | {"value": index / 16} for index, name in enumerate(CHANGES)}
    trusted = {"accuracy": ENTRY, "ece": ENTRY | {"value": 0.0321}, "auroc": ENTRY, "coverage": 0.9, "n": 1234}
    trusted |= {"accuracy_at_coverage": ENTRY | {"value": 0.8765}, "units": 12, "curve": [[0.5, 1.0], [1.0, 0.75]]}
    trusted["bins"] = [{"low": 0.5, "high": 1.0, "count": 5, "probability": 0.9, "accuracy": 0.8}]
    cue = {"border": ENTRY | {"value": 0.4567}, "all": ENTRY}
    rest = {"mirror_averaged": {"tumor_or_not": ENTRY | {"value": -0.0125}}, "changed_answers": changes}
    look = {"tumor_or_not": ENTRY, "class": ENTRY, "classes": {"glioma": 7, "notumor": 5}}
    return {
        "groups": {
            "worst": {"name": "web T1 notumor"} | ENTRY | {"value": 0.6543},
            "mean": {"value": 0.8123, "low": 0.8, "high": 0.9, "groups": 9},
        },
        "kinds": {name: measured | rest for name, measured in (kinds or {}).items()},
        "clusters": {"look 1": look | {"brightness": 0.21, "filled": 0.64}},
        "confidence": {"test, class": trusted, "web": trusted},
        "cues": {"file": cue | {"size": ENTRY}, "view": cue, "chance": 0.25},
        "without_brain": {"rim": ENTRY | {"value": 0.3456}, "outline": ENTRY | {"value": 0.2345}, "chance": 0.25},
    }
