"""Cross-validate a training: one run per fold, then all answers together.

python -m training.folds --folds 5 --output-dir runs/folds --data-dir DIR --model resnet18 …

All further flags go to training/train.py. Every image is in the test set of one fold, with all its copies. Finished
folds are not repeated, and an interrupted one is resumed, when the same command is given again.
"""

import argparse
import csv
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from brain_xai.checkpoint import CheckpointError
from training.data.sources import DataError
from training.evaluation.answers import TestAnswers, answers_on_test
from training.evaluation.metrics import Bootstrap, compute_metrics
from training.report.tables import markdown_table, named_entries, with_interval

ROOT = Path(__file__).resolve().parent.parent
METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "auroc_macro", "tumor_miss_rate", "ece", "f1")


@dataclass(frozen=True)
class Folds:
    """A cross-validation: `count` runs below `output`, each with the `flags` of training/train.py."""

    count: int
    output: Path
    flags: tuple[str, ...]

    def folder(self, fold: int) -> Path:
        """Return the output folder of a fold, counted from 1."""
        return self.output / f"fold-{fold}"

    def command(self, fold: int) -> list[str]:
        """Return the command that trains a fold, or resumes it."""
        own = ["--split", f"fold:{fold}/{self.count}", "--output-dir", str(self.folder(fold)), "--resume"]
        launch = [sys.executable, "-m", "accelerate.commands.launch"]
        return [*launch, str(ROOT / "training" / "train.py"), *self.flags, *own]


def train_all(folds: Folds) -> None:
    """Train every fold that is not finished; raises `DataError` if a run fails."""
    for fold in range(1, folds.count + 1):
        print(f"Fold {fold} of {folds.count}: {folds.folder(fold)}", flush=True)
        done = subprocess.run(folds.command(fold), check=False)
        if done.returncode:
            raise DataError(f"Fold {fold} failed; its message is above. Give the same command again to go on.")


def summarize(parts: Sequence[TestAnswers], seed: int = 0) -> dict:
    """Score all answers together, and each fold on its own.

    Returns:
        JSON: "pooled", the metrics of `compute_metrics` over all images; "folds", {metric: {"mean", "sd", "values"}}
        with the sample standard deviation over the folds.
    """
    first = parts[0]
    joined = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in ("probabilities", "labels", "groups")
    }

    def score(probabilities: np.ndarray, labels: np.ndarray, groups: np.ndarray, samples: int) -> dict:
        bootstrap = Bootstrap(samples, seed)
        return compute_metrics(probabilities, labels, groups, list(first.label_names), first.no_tumor_label, bootstrap)

    pooled = score(*joined.values(), samples=1000)
    of_folds = [score(part.probabilities, part.labels, part.groups, samples=0) for part in parts]
    folds = {}
    for metric in METRICS:
        for name in named_entries(pooled, metric):
            values = [named_entries(single, metric)[name]["value"] for single in of_folds]
            folds[name] = {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1)), "values": values}
    return {"pooled": pooled, "folds": folds}


def summary_table(result: dict) -> str:
    """Return the result as a Markdown table with a caption."""
    pooled = {name: entry for metric in METRICS for name, entry in named_entries(result["pooled"], metric).items()}
    rows = [
        [name, with_interval(pooled[name]), f"{spread['mean']:.3f} ± {spread['sd']:.3f}"]
        for name, spread in result["folds"].items()
    ]
    counts = f"n = {result['pooled']['n']} images in {result['pooled']['groups']} duplicate groups"
    table = markdown_table(["Measure", "all answers together", "mean ± SD of the folds"], rows)
    return f"{table}\n\n{counts}; value [low, high]: 95% interval, {result['pooled']['interval']['method']}."


def write_answers(file: Path, parts: Sequence[TestAnswers]) -> None:
    """Write one row per image: file, label, fold, and the probability of each class."""
    names = parts[0].label_names
    with file.open("w", newline="", encoding="utf-8") as opened:
        rows = csv.writer(opened)
        rows.writerow(["file", "label", "fold", *names])
        for fold, part in enumerate(parts, start=1):
            for name, label, probabilities in zip(part.files, part.labels, part.probabilities, strict=True):
                rows.writerow([name, names[label], fold, *(f"{p:.6f}" for p in probabilities)])


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, train the folds and print the summary."""
    parser = argparse.ArgumentParser(
        prog="python -m training.folds", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folds", type=int, default=5, help="number of folds (default 5)")
    parser.add_argument("--output-dir", type=Path, required=True, help="folder of all folds and of the summary")
    parser.add_argument("--data-dir", required=True, help="folder of images, as for training/train.py")
    given, flags = parser.parse_known_args(arguments)
    if given.folds < 2:
        parser.error("--folds must be at least 2.")
    folds = Folds(given.folds, given.output_dir, ("--data-dir", given.data_dir, *flags))
    try:
        train_all(folds)
        parts = [answers_on_test(str(folds.folder(fold)), given.data_dir) for fold in range(1, folds.count + 1)]
    except (CheckpointError, DataError) as error:
        raise SystemExit(f"error: {error}") from error
    result = summarize(parts)
    (folds.output / "folds.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    write_answers(folds.output / "answers.csv", parts)
    print(summary_table(result))
    print(together(folds))


def together(folds: Folds) -> str:
    """Say how the folds answer together, and that nothing above measures that."""
    checkpoints = [str(folds.folder(fold)) for fold in range(1, folds.count + 1)]
    command = shlex.join(["python", "-m", "training.score", "--checkpoint", *checkpoints])
    return (
        f"\nAll folds together, by the mean of their calibrated probabilities, on other images:\n"
        f"{command} --input FOLDER --output FILE.parquet\n"
        "How good they are together is not known: every image of this data has trained all of them but one."
    )


if __name__ == "__main__":
    main()
