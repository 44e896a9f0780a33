"""The Markdown of what tests/benchmarks/architectures.py has measured."""

from collections.abc import Iterable, Sequence
from importlib.metadata import version

# A layer is where it was measured to be if it looks there to within a quarter of the distance of two positions: the
# usual stretching of maps is off by a half.
RIGHT = 0.25

INTRODUCTION = """# Architectures

Written by `python tests/benchmarks/architectures.py`; do not edit. Random weights, images of {side} × {side} pixels,
one thread, each model in a process of its own; {versions}.
timm has no GoogLeNet, of which `inception_v3` is a successor.

## Do they work?

*Trains*: tensors that one step of the optimizer changed. *Logits*: how far those of timm, transformers and Brain XAI
after loading are from the saved model's at most, relative to the largest, in double precision. *Last layer*,
*penultimate layer*: stride and center of the first position in pixels, as measured for class-activation maps; in
brackets how far from there the layer really looks (center of the gradient of two positions in the middle, over random
weights and images), in strides.
"""
COSTS = """
## What do they cost?

Processor time in seconds and peak memory in MB above that of the loaded model. A map includes its prediction; Grad-CAM
stands for attention relevance where a model has no feature map. Occlusion: windows of a fifth of the side, side by
side. *Difference*: of our map from Captum's in the same run, relative to its largest value; where random weights hardly
react to a window, the last digits of float32 show.
"""


def as_markdown(results: dict[str, dict], order: Sequence[str]) -> str:
    """Return the tables of {model: what was measured}, the models of `order` first."""
    names = sorted(results, key=lambda name: (order.index(name) if name in order else len(order), name))
    checked = {name: results[name] for name in names if "failed" not in results[name]}
    sides = sorted({result["side"] for result in checked.values()})
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "timm", "transformers", "captum"))
    reasons = _reasons(checked)
    text = [
        INTRODUCTION.format(side=" or ".join(map(str, sides)), versions=versions),
        _table(
            ["model", "parameters", "trains", "logits", "methods that work", "last layer", "penultimate layer"],
            (_worked(name, result, reasons) for name, result in checked.items()),
        ),
        "",
        *(f"{_letter(index)}. {', '.join(f'`{key}`' for key in keys)}: {reason}" for index, (reason, keys) in reasons),
        *(f"\n`{name}` failed: {results[name]['failed']}" for name in names if "failed" in results[name]),
        COSTS,
        _table(
            ["model", "prediction", "Grad-CAM", "Captum's", "difference", "occlusion", "Captum's", "difference"],
            (_cost(name, result["cost"]) for name, result in checked.items()),
        ),
    ]
    return "\n".join(text) + "\n"


def is_right(layer: dict) -> bool:
    """Return whether a layer looks where it was measured to look."""
    return layer["error"] < RIGHT * max(layer["stride"])


def _reasons(results: dict[str, dict]) -> list[tuple[int, tuple[str, list[str]]]]:
    """Return each reason why methods refuse or fail, in the words of the program, with the methods, numbered."""
    reasons: dict[str, list[str]] = {}
    for name, result in results.items():
        for key, outcome in result["methods"].items():
            for reason in outcome.values():
                if reason:
                    keys = reasons.setdefault(_general(reason, name), [])
                    keys.extend([key] if key not in keys else [])
    return list(enumerate(reasons.items()))


def _general(reason: str, name: str) -> str:
    """Return a reason that is the same for every model."""
    return reason.replace(name, "MODEL")


def _letter(index: int) -> str:
    return chr(ord("a") + index)


def _worked(name: str, result: dict, reasons: list) -> list[str]:
    letters = {reason: _letter(index) for index, (reason, _) in reasons}
    outcomes = result["methods"].values()
    why = sorted({letters[_general(text, name)] for outcome in outcomes for text in outcome.values() if text})
    works = sum("works" in outcome for outcome in outcomes)
    return [
        f"`{name}`",
        f"{result['parameters'] / 1e6:.1f} M",
        f"{result['training']['changed']:.0%}",
        f"{max(result['logits'].values()):.0e}",
        f"{works} of {len(outcomes)}" + (f"; not {', '.join(why)}" if why else ""),
        *(_layer(layer) for layer in result["layers"].values()),
    ]


def _layer(layer: dict | None) -> str:
    if layer is None:
        return "–"
    stride, offset = max(layer["stride"]), max(layer["offset"])
    verdict = "" if is_right(layer) else " **wrong**"
    return f"{stride:g} from {offset:g} ({layer['error'] / stride:.2f}){verdict}"


def _cost(name: str, cost: dict) -> list[str]:
    cells = [f"`{name}`", _amount(cost["prediction"])]
    for key in ("grad_cam" if "grad_cam, auto" in cost else "attention_relevance", "occlusion"):
        captum = cost.get(f"{key}, captum", {})
        difference = f"{captum['difference']:.0e}" if "difference" in captum else "–"
        cells += [_amount(cost.get(f"{key}, auto")), _amount(captum), difference]
    return cells


def _amount(measured: dict | None) -> str:
    if not measured:
        return "–"
    memory = "" if measured["megabytes"] is None else f", {measured['megabytes']:.0f} MB"
    return f"{measured['seconds']:.3g} s{memory}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
