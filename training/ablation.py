"""Train again without one ingredient at a time, and without one source at a time: what helps, and what carries over?

python -m training.ablation --output-dir runs/ablation --data-dir DIR --source … --frame --styles 1 --model resnet18 …

All further flags go to training/train.py; each that is named in `NEUTRAL` is an ingredient. Choose a short schedule:
there is one run for each ingredient and two more for the sources. A source that a run leaves out is held out as a
whole. Finished runs are not repeated, and an interrupted one is resumed, when the same command is given again.
"""

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from brain_xai.checkpoint import CheckpointError, load_checkpoint
from training.data.other_sources import parse_source
from training.data.sources import DataError
from training.evaluation.answers import probabilities_of
from training.evaluation.judged import judge, share
from training.evaluation.unseen import TEST, Part, training_settings, unseen_scans
from training.report.tables import markdown_table, with_interval

ROOT = Path(__file__).resolve().parent.parent
EVERYTHING = "everything"
# The ingredients, and what to give to training/train.py instead of each.
NEUTRAL = {
    "--frame": ("--frame", "false"),
    "--styles": ("--styles", "0"),
    "--counterfactuals": ("--counterfactuals", "0"),
    "--augmentation": ("--augmentation", "0"),
    "--init-weights": ("--no-pretrained",),
}


@dataclass(frozen=True)
class Trial:
    """One run: its `name`, the `flags` of training/train.py, and `sources` to measure it on, as for `--source`."""

    name: str
    flags: tuple[str, ...]
    sources: tuple[str, ...]

    def train(self, folder: Path) -> None:
        """Train into `folder` unless that is done; raises `DataError` if the run fails."""
        launch = [sys.executable, "-m", "accelerate.commands.launch", str(ROOT / "training" / "train.py")]
        done = subprocess.run([*launch, *self.flags, "--output-dir", str(folder), "--resume"], check=False)
        if done.returncode:
            raise DataError(f"The run {self.name!r} failed; its message is above. Give the same command to go on.")


def trials_of(flags: Sequence[str], sources: Sequence[str], changes: Sequence[str]) -> list[Trial]:
    """Return the run with everything, then one without each ingredient and each source.

    Args:
        flags: Those of training/train.py without `--source`.
        sources: The values of `--source`.
        changes: Flags in one text each, for a further run with these flags as well.

    Raises:
        DataError: A source cannot be read.
    """
    everything = tuple(sources)
    trials = [Trial(EVERYTHING, _with_sources(flags, everything), everything)]
    for flag in (flag for flag in NEUTRAL if flag in flags):
        neutral = (*_without(flags, flag), *NEUTRAL[flag])
        trials.append(Trial(f"without {flag}", _with_sources(neutral, everything), everything))
    for left_out in everything:
        others = tuple(_all_held_out(source) if source == left_out else source for source in everything)
        name = f"without {parse_source(left_out).name}"
        trials.append(Trial(name, _with_sources(flags, others), others))
    if everything:
        trials.append(Trial("without any source", tuple(flags), tuple(map(_all_held_out, everything))))
    return trials + [_changed(flags, everything, text) for text in changes]


def measure(trial: Trial, folder: Path, data_dir: str, seed: int = 0) -> dict[str, dict]:
    """Return the share of right answers: to the class on the test split, to tumor or not on scans of each source.

    Raises:
        CheckpointError: The checkpoint in `folder` cannot be loaded.
        DataError: Data cannot be read, or its split is not that of the run.
    """
    classifier = load_checkpoint(str(folder))
    unseen = unseen_scans(classifier, training_settings(str(folder)), data_dir, trial.sources)
    parts: dict[str, list[tuple[str, Part]]] = {}
    for kind, part in unseen.kinds.items():
        healthy = "no tumor" if part.allowed[0, unseen.no_tumor] else "tumor"
        parts.setdefault(TEST if kind == TEST else f"{unseen.folders[kind].name}, {healthy}", []).append((kind, part))
    result = {}
    for name, members in parts.items():
        question = "class" if name == TEST else "tumor_or_not"
        judged = [
            judge(probabilities_of(classifier, part.pixels, kind), part, unseen.no_tumor)[question]
            for kind, part in members
        ]
        right, units = (
            np.concatenate([getattr(answers, column) for answers in judged]) for column in ("right", "units")
        )
        result[name] = share(right, units, seed)
    return result


def ablation_table(result: dict) -> str:
    """Return the result as a Markdown table with a caption; a run per row."""
    kinds = list(result["trials"][EVERYTHING])
    rows = [[name, *(_with_n(measured.get(kind)) for kind in kinds)] for name, measured in result["trials"].items()]
    caption = (
        "Share right [95% interval, percentile bootstrap by patient or distinct image], n; test: the class; sources: "
        "tumor or no tumor, on scans that the run held out, all of a source that it left out. "
        f"Each row is one run of `{result['command']}`, seed {result['seed']}."
    )
    return f"{markdown_table(['Run', *kinds], rows)}\n\n{caption}"


def _with_n(entry: dict | None) -> str:
    return "–" if entry is None else f"{with_interval(entry)}, {entry['n']}"


def _with_sources(flags: Sequence[str], sources: Sequence[str]) -> tuple[str, ...]:
    return (*flags, "--source", *sources) if sources else tuple(flags)


def _changed(flags: Sequence[str], sources: tuple[str, ...], text: str) -> Trial:
    words = shlex.split(text)
    if "--source" in words:
        kept = _without(words, "--source")
        start = words.index("--source") + 1
        sources, words = tuple(words[start : start + len(words) - len(kept) - 1]), kept
    return Trial(f"with {text}", _with_sources([*flags, *words], sources), sources)


def _without(flags: Sequence[str], flag: str) -> list[str]:
    """Return `flags` without one and its values."""
    start = flags.index(flag)
    end = next((i for i in range(start + 1, len(flags)) if flags[i].startswith("--")), len(flags))
    return [*flags[:start], *flags[end:]]


def _all_held_out(source: str) -> str:
    folder, _, options = source.partition(":")
    kept = [option for option in options.split(",") if option and not option.startswith("hold=")]
    return f"{folder}:{','.join([*kept, 'hold=1'])}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, train and measure every run, and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m training.ablation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output-dir", type=Path, required=True, help="folder of all runs and of the table")
    parser.add_argument("--data-dir", required=True, help="folder of images, as for training/train.py")
    parser.add_argument("--source", nargs="+", default=[], help="as for training/train.py")
    parser.add_argument("--seed", type=int, default=0, help="seed of every run (default 0)")
    parser.add_argument(
        "--change", action="append", default=[], help='a run with further flags: --change="--sizes 160:6"'
    )
    given, flags = parser.parse_known_args(arguments)
    own = ["--data-dir", given.data_dir, "--seed", str(given.seed), *flags]
    result = {"command": " ".join(["training/train.py", *flags]), "seed": given.seed, "trials": {}}
    try:
        for number, trial in enumerate(trials_of(own, given.source, given.change)):
            print(f"Run {number}: {trial.name}", flush=True)
            folder = given.output_dir / f"run-{number}"
            trial.train(folder)
            result["trials"][trial.name] = measure(trial, folder, given.data_dir, given.seed)
            (given.output_dir / "ablation.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    except (CheckpointError, DataError) as error:
        raise SystemExit(f"error: {error}") from error
    table = ablation_table(result)
    (given.output_dir / "ablation.md").write_text(table + "\n", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
