"""Average the weights of runs that started from the same weights: often right more often than each of them.

python -m training.average runs/a runs/b --shares 1 3 --output-dir runs/averaged

The average is no checkpoint yet: start a short run with a small learning rate from its file (`training/train.py
--init-weights runs/averaged/model.safetensors`), which fits batch normalization and temperature to it and measures it.

Reference: Wortsman et al. 2022, Model soups, arXiv 2203.05482.
"""

import argparse
import json
import shlex
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from training.data.sources import DataError
from training.data.splits import SplitIdentity
from training.finish import write_json


def average_weights(weights: Sequence[dict[str, torch.Tensor]], shares: Sequence[float]) -> dict[str, torch.Tensor]:
    """Return the average of tensors by name, each model with its share.

    Args:
        weights: The tensors of each model, float, or int as counters are, which are taken from the first.
        shares: How much each model counts, above 0; only their ratio matters.

    Raises:
        DataError: The models are not of one architecture.
    """
    first = weights[0]
    shapes = [{name: value.shape for name, value in model.items()} for model in weights]
    if any(each != shapes[0] for each in shapes):
        raise DataError("The runs are not of one architecture: their tensors differ.")
    parts = [share / sum(shares) for share in shares]
    return {
        name: sum(part * model[name].double() for part, model in zip(parts, weights, strict=True)).to(value.dtype)
        if value.is_floating_point()
        else value
        for name, value in first.items()
    }


def joined_record(records: Sequence[dict], command: str) -> dict:
    """Return what metrics.json says of an average of runs, for the run that starts from it.

    Raises:
        DataError: The runs were on different splits, so that one may have seen what another was measured on.
    """
    first = records[0]
    if any(SplitIdentity.of(record) != SplitIdentity.of(first) for record in records):
        raise DataError("The runs were on different splits: one may have seen what another is measured on.")
    training = dict(first["training"])
    training["seconds"] = sum(record["training"]["seconds"] for record in records)
    training.pop("energy", None)  # otherwise that of a part only
    commands = "\n".join(record["command"] for record in records)
    kept = {name: first[name] for name in ("split", "seed", "data", "versions")}
    return kept | {
        "command": f"{commands}\n{command}",
        "init": "; ".join(dict.fromkeys(record["init"] for record in records)),
        "training": training,
    }


def average(runs: Sequence[Path], shares: Sequence[float], folder: Path) -> None:
    """Write model.safetensors and metrics.json of an average into `folder`; raises `DataError`."""
    if len(runs) < 2 or len(shares) != len(runs) or min(shares) <= 0:
        raise DataError("Name at least two runs, and as many --shares above 0.")
    for run in runs:
        for name in ("model.safetensors", "metrics.json"):
            if not (run / name).is_file():
                raise DataError(f"There is no {name} in {run}.")
    words = ["python", "-m", "training.average", *(run.resolve().name for run in runs), "--shares"]
    command = shlex.join([*words, *(f"{share:g}" for share in shares), "--output-dir", folder.resolve().name])
    record = joined_record([json.loads((run / "metrics.json").read_text(encoding="utf-8")) for run in runs], command)
    weights = average_weights([load_file(run / "model.safetensors") for run in runs], shares)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors")
    write_json(folder / "metrics.json", record)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and write the average."""
    parser = argparse.ArgumentParser(
        prog="python -m training.average", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="checkpoint folders of training/train.py")
    parser.add_argument("--shares", nargs="+", type=float, help="how much each run counts (default: all the same)")
    parser.add_argument("--output-dir", type=Path, required=True, help="folder for the averaged weights")
    given = parser.parse_args(arguments)
    try:
        average(given.runs, given.shares or [1.0] * len(given.runs), given.output_dir)
    except DataError as error:
        raise SystemExit(f"error: {error}") from error
    print(f"The averaged weights are in {given.output_dir / 'model.safetensors'}; start a short run from them.")


if __name__ == "__main__":
    main()
