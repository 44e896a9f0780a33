"""Fit what a checkpoint needs to warn about doubtful answers, measure the warnings, and write both into its folder.

python -m training.trust --checkpoint runs/resnet18 --data-dir DIR --source DIR:hold=0.3 …

Fitted on the training scans and on images made by code; the thresholds come from validation scans. How often each kind
of foreign image is told is measured with a fit that saw no image of its family.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from brain_xai.checkpoint import CheckpointError, load_checkpoint
from brain_xai.checkpoint.catalog import checkpoint_folder
from brain_xai.classifier import Classifier
from brain_xai.doubts import disagreement
from brain_xai.explanation import MethodNotApplicable, explain
from brain_xai.methods import METHODS
from brain_xai.preprocess import read_image
from brain_xai.trust import CANNOT_SAY, Trust
from training.data.duplicate_groups import duplicate_groups
from training.data.foreign_images import KINDS, foreign_images
from training.data.other_sources import load_other, parse_source, split_other
from training.data.sources import DataError, load_scans
from training.evaluation.held_out import recorded_split
from training.learning.trust_fit import (
    Described,
    describe,
    fit_distance,
    fit_gate,
    share,
    stored,
    told,
    warned,
    with_thresholds,
)
from training.report.trust import cannot_say_table, gate_table

# Foreign images of each kind, and how many training scans they are made of where they are made of scans.
PER_KIND, SCANS_TO_CHANGE = 40, 300
# Validation scans that get all maps, and the share of them whose methods may be said to disagree.
MAPPED, DISAGREEING = 40, 0.05
# Parts of the validation scans: each is judged with thresholds of the others.
FOLDS = 5


@dataclass(frozen=True)
class RecordedScans:
    """The scans of a checkpoint's run.

    `files` n paths; `allowed` bool [n, classes], the answers that are right; `kinds` int64 [n], label and source;
    `sources` n names, "" for the main data; `train`, `validation` and `held_out` int64 indices. `held_out` scans of
    other sources are only measured.
    """

    files: list[Path]
    allowed: np.ndarray
    kinds: np.ndarray
    sources: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    held_out: np.ndarray


def recorded_scans(classifier: Classifier, training: Mapping, data_dir: str, sources: Sequence[str]) -> RecordedScans:
    """Return the scans that the checkpoint's run drew from, one of each distinct picture to train on."""
    preprocessing = classifier.preprocessing
    size = preprocessing.size[0]
    main = load_scans(data_dir, size=size, interpolation=preprocessing.interpolation, framed=preprocessing.frame)
    groups = duplicate_groups(main.thumbnails)
    splits = recorded_split(classifier, training, main, groups)
    files, allowed = [Path(data_dir) / file for file in main.files], np.eye(len(main.label_names), dtype=bool)
    allowed, of_source = allowed[main.labels], np.repeat("", len(files))
    train, validation, held_out = splits.train, splits.validation, np.array([], dtype=np.int64)
    if sources:
        parsed = [parse_source(text) for text in sources]
        other = load_other(parsed, main, training["no_tumor_label"], size, preprocessing.frame)
        parts = split_other(main, splits, other, parsed, classifier.metrics["seed"], training["validation_fraction"])
        folders, first, groups = {source.name: Path(source.folder) for source in parsed}, len(files), parts.groups
        names = zip(other.sources, other.files, strict=True)
        files += [folders[name] / Path(file).relative_to(name) for name, file in names]
        allowed, of_source = np.concatenate([allowed, other.allowed]), np.concatenate([of_source, other.sources])
        train = np.concatenate([np.setdiff1d(train, parts.purged), first + parts.train])
        validation, held_out = np.concatenate([validation, first + parts.validation]), first + parts.held_out
    train = train[np.unique(groups[train], return_index=True)[1]]
    cells = np.concatenate([allowed.astype(str), of_source[:, None]], axis=1)
    kinds = np.unique(cells, axis=0, return_inverse=True)[1].ravel()
    return RecordedScans(files, allowed, kinds, of_source, train, validation, held_out)


@dataclass(frozen=True)
class Material:
    """Everything that trust is fitted and measured on, described.

    `right` and `healthy` bool [n]: whether the answers for the validation scans are right and say "no tumor".
    """

    train: Described
    kinds: np.ndarray
    validation: Described
    right: np.ndarray
    healthy: np.ndarray
    foreign: Mapping[str, Described]


def describe_all(classifier: Classifier, scans: RecordedScans, per_kind: int = PER_KIND, seed: int = 0) -> Material:
    """Describe training and validation scans and `per_kind` foreign images of each kind."""

    def all_of(name: str, indices: np.ndarray) -> Described:
        return describe(classifier, tqdm([scans.files[i] for i in indices], desc=name, mininterval=2))

    validation = all_of("validation scans", scans.validation)
    answers = validation.probabilities.argmax(axis=1)
    healthy = np.array([label == classifier.no_tumor_label for label in classifier.label_names])[answers]
    right = scans.allowed[scans.validation, answers]
    chosen = np.random.default_rng(seed).permutation(scans.train)[:SCANS_TO_CHANGE]
    changed = [read_image(scans.files[i]) for i in chosen]
    foreign = {
        kind: describe(classifier, foreign_images(changed, per_kind, seed, [kind])[kind])
        for kind in tqdm(KINDS, desc="foreign images", mininterval=2)
    }
    train = all_of("training scans", scans.train)
    return Material(train, scans.kinds[scans.train], validation, right, healthy, foreign)


def fit(material: Material, distance: Trust, without: str | None = None) -> Trust:
    """Add the gate and all thresholds to fitted distances; `without` the foreign images of one family."""
    foreign = {kind: part for kind, part in material.foreign.items() if KINDS[kind].family != without}
    trust = stored(replace(distance, gate=fit_gate(distance, material.train, foreign)))
    return with_thresholds(trust, material.validation, material.right, material.healthy)


def detected(material: Material, distance: Trust) -> dict[str, dict]:
    """Return how often each kind of foreign image is warned about by a fit that saw no image of its family."""
    rates: dict[str, dict] = {}
    for family in tqdm(dict.fromkeys(kind.family for kind in KINDS.values()), desc="families left out", mininterval=2):
        trust = fit(material, distance, without=family)
        for kind, part in material.foreign.items():
            if KINDS[kind].family == family:
                rates[kind.replace("_", " ")] = share(warned(trust, part))
    return rates


def detected_of_known_kind(material: Material, distance: Trust) -> dict[str, dict]:
    """Return how often each kind of foreign image is warned about by a fit that saw other images of its kind."""
    hits: dict[str, list[np.ndarray]] = {}
    for odd in (0, 1):
        halves = {kind: np.arange(len(part.plain)) % 2 == odd for kind, part in material.foreign.items()}
        fitted = {kind: part.take(~halves[kind]) for kind, part in material.foreign.items()}
        trust = fit(replace(material, foreign=fitted), distance)
        for kind, part in material.foreign.items():
            hits.setdefault(kind.replace("_", " "), []).append(warned(trust, part.take(halves[kind])))
    return {kind: share(np.concatenate(halves)) for kind, halves in hits.items()}


def false_alarms(trust: Trust, material: Material, seed: int = 0) -> dict[str, dict]:
    """Return how often each warning is given without reason; every scan is judged with thresholds of other scans."""
    n = len(material.right)
    folds = np.random.default_rng(seed).permutation(n) % FOLDS
    given: dict[str, np.ndarray] = {}
    for fold in range(FOLDS):
        rest, part = folds != fold, folds == fold
        refitted = with_thresholds(trust, material.validation.take(rest), material.right[rest], material.healthy[rest])
        for code, hits in told(refitted, material.validation.take(part)).items():
            given.setdefault(code, np.zeros(n, dtype=bool))[part] = hits
    of_answers = {"low_margin": material.right, "evidence_against": material.right & material.healthy}
    counted = {code: hits[of_answers.get(code, np.ones(n, dtype=bool))] for code, hits in given.items()}
    return {code: share(hits) for code, hits in counted.items() if len(hits)}


def cannot_say(trust: Trust, described: Described, right: np.ndarray) -> dict:
    """Return how many scans get an answer by the rule of `Prediction.cannot_say`, and how many of those are wrong."""
    codes = told(trust, described)
    silent = np.any([codes[code] for code in CANNOT_SAY], axis=0)
    rates = {"coverage": ~silent, "error": ~right[~silent], "error_of_all": ~right}
    return {name: share(hits) for name, hits in rates.items() if len(hits)}


def elsewhere(classifier: Classifier, trust: Trust, scans: RecordedScans) -> dict[str, tuple[dict, dict]]:
    """Return by source how often held-out scans are called unusual or no brain MRI, and `cannot_say` for them."""
    rates = {}
    for source in np.unique(scans.sources[scans.held_out]):
        indices = scans.held_out[scans.sources[scans.held_out] == source]
        described = describe(classifier, [scans.files[i] for i in indices])
        right = scans.allowed[indices, described.probabilities.argmax(axis=1)]
        rates[str(source)] = share(warned(trust, described)), cannot_say(trust, described, right)
    return rates


def disagreements(classifier: Classifier, files: Sequence[Path]) -> np.ndarray:
    """Return how much the methods disagree on each scan, float [n]."""
    values = []
    for file in tqdm(files, desc="maps", mininterval=2):
        explanations = []
        for method in METHODS:
            try:
                explanations.append(explain(classifier, file, method))
            except MethodNotApplicable:
                continue
        values.append(disagreement(explanations))
    return np.array([value for value in values if value is not None])


def with_disagreement(trust: Trust, values: np.ndarray) -> tuple[Trust, dict]:
    """Set the threshold of `methods_disagree` on values [n], and return how often it is reached without reason."""

    def limit(given: np.ndarray) -> float:
        return float(np.quantile(given, 1 - DISAGREEING)) + 1e-6

    others = np.array([limit(np.delete(values, index)) for index in range(len(values))])
    return replace(trust, methods_disagree=limit(values)), share(values >= others)


def measured(
    classifier: Classifier, scans: RecordedScans, maps: int = MAPPED, per_kind: int = PER_KIND, seed: int = 0
) -> tuple[Trust, dict]:
    """Fit and measure everything; returns the fit and what metrics.json says about it."""
    material = describe_all(classifier, scans, per_kind, seed)
    distance = stored(fit_distance(material.train.features, material.kinds))
    trust = fit(material, distance)
    rates = false_alarms(trust, material, seed)
    tumors = scans.validation[material.right & ~material.healthy]
    chosen = np.random.default_rng(seed).permutation(tumors)[:maps]
    if len(values := disagreements(classifier, [scans.files[i] for i in chosen])):
        trust, rates["methods_disagree"] = with_disagreement(trust, values)
    trust = replace(trust, false_alarms=rates)
    others = elsewhere(classifier, trust, scans)
    silence = {source: silent for source, (_, silent) in others.items()}
    return trust, {
        "false_alarms": rates,
        "detected": detected(material, distance),
        "detected_of_known_kind": detected_of_known_kind(material, distance),
        "other_sources": {source: rate for source, (rate, _) in others.items()},
        "cannot_say": {"validation": cannot_say(trust, material.validation, material.right)} | silence,
    }


def main() -> None:
    """Parse the command line, fit, and write the result into the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="folder of a checkpoint")
    parser.add_argument("--data-dir", required=True, help="the main data of the checkpoint's run")
    parser.add_argument(
        "--source", nargs="+", default=[], help="the other sources of its run, as for training/train.py"
    )
    parser.add_argument("--maps", type=int, default=MAPPED, help=f"scans that get all maps (default {MAPPED}; 0: none)")
    given = parser.parse_args()
    folder = checkpoint_folder(given.checkpoint)
    try:
        classifier = load_checkpoint(folder)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        training = config["brain_xai"].get("training", {})
        scans = recorded_scans(classifier, training, given.data_dir, given.source)
    except (CheckpointError, DataError) as error:
        raise SystemExit(f"error: {error}") from error
    trust, results = measured(classifier, scans, given.maps)
    config["brain_xai"]["trust"] = trust.to_json()
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8")) | {"trust": results}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    print(f"{gate_table(results)}\n\n{cannot_say_table(results)}")


if __name__ == "__main__":
    main()
