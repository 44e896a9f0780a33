"""Compare checkpoints on the same test images: one table, one figure, differences paired by image.

python -m training.compare runs/a runs/b --data-dir DIR --output-dir comparison

Writes comparison.md, comparison.csv and comparison.png. What other commands have measured (scans from other sources,
quality of the maps, costs of the training) is read from the checkpoints' own files.
"""

import argparse
import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from brain_xai.checkpoint import CheckpointError
from brain_xai.checkpoint.catalog import checkpoint_folder
from brain_xai.checkpoint.folder import read_explanations
from training.data.sources import DataError
from training.evaluation.answers import TestAnswers, answers_on_test
from training.evaluation.cost import cost_in_new_process
from training.evaluation.metrics import Bootstrap, compute_metrics
from training.evaluation.paired import COMPARED, mcnemar, paired_differences
from training.report.comparison import Compared, comparison_figure, comparison_rows, differences_table, table_of


@dataclass(frozen=True)
class Measured:
    """The answers of one checkpoint on the common test images, and what it costs."""

    name: str
    folder: Path
    answers: TestAnswers
    cost: dict


def measure(checkpoints: Sequence[str], data_dir: str) -> list[Measured]:
    """Answer the common test images with every checkpoint.

    Raises:
        CheckpointError: A checkpoint cannot be loaded.
        DataError: Data and split are not those of the runs, or the checkpoints were not tested on the same images.
    """
    measured = []
    for checkpoint in checkpoints:
        folder = checkpoint_folder(checkpoint)
        if folder is None:
            raise DataError(f"There is no checkpoint {checkpoint} on this disk.")
        answers = answers_on_test(checkpoint, data_dir)
        if measured and answers.files != measured[0].answers.files:
            raise DataError(
                f"{checkpoint} has other test images than {checkpoints[0]}: it may have been trained on those."
            )
        print(f"{checkpoint}: {len(answers.files)} test images answered", flush=True)
        measured.append(Measured(folder.resolve().name, folder, answers, cost_in_new_process(checkpoint)))
    return measured


def compared(measured: Sequence[Measured], seed: int = 0) -> list[Compared]:
    """Score every checkpoint, and its difference from the first one, on the same samples of duplicate groups."""
    first, bootstrap = measured[0].answers, Bootstrap(seed=seed)
    truth = first.labels, first.groups
    result = []
    for each in measured:
        probabilities, names = each.answers.probabilities, list(first.label_names)
        against = first.probabilities, probabilities, *truth
        result.append(
            Compared(
                name=each.name,
                test=compute_metrics(probabilities, *truth, names, first.no_tumor_label, bootstrap),
                differences=paired_differences(*against, first.no_tumor_label, bootstrap),
                mcnemar=mcnemar(*against),
                cost=each.cost,
                metrics=json.loads((each.folder / "metrics.json").read_text(encoding="utf-8")),
                explanations=read_explanations(each.folder),
            )
        )
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, write the comparison and print it."""
    parser = argparse.ArgumentParser(
        prog="python -m training.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoints", nargs="+", help="folders, or bundled/<name>; the first is compared against")
    parser.add_argument("--data-dir", required=True, help="the data they were trained and tested on")
    parser.add_argument("--output-dir", type=Path, required=True, help="folder of the table and the figure")
    given = parser.parse_args(arguments)
    if len(given.checkpoints) < 2:
        parser.error("Name at least two checkpoints.")
    try:
        results = compared(measure(given.checkpoints, given.data_dir))
    except (CheckpointError, DataError) as error:
        raise SystemExit(f"error: {error}") from error
    header, *rows = comparison_rows(results)
    text = f"{table_of(results)}\n\n{differences_table(results, tuple(COMPARED))}\n"
    given.output_dir.mkdir(parents=True, exist_ok=True)
    (given.output_dir / "comparison.md").write_text(text, encoding="utf-8")
    with (given.output_dir / "comparison.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    comparison_figure(results, given.output_dir / "comparison.png")
    print(text)


if __name__ == "__main__":
    main()
