"""Put a finished run among the bundled checkpoints, without its example scans.

python -m training.bundle runs/r18 resnet18 [--official runs/r18_official]
"""

import argparse
import shutil
from pathlib import Path

from brain_xai.checkpoint.catalog import BUNDLED
from brain_xai.checkpoint.schema import WEIGHTS_NAME
from training.report.card import card_of

FILES = ("config.json", WEIGHTS_NAME, "metrics.json")
# The Hub and plain git both refuse larger files outside of large-file storage.
MAX_BYTES = 10_000_000


def bundle(run: Path, folder: Path, official: Path | None = None) -> None:
    """Copy the checkpoint in `run` to `folder`; with `official`, keep that run's metrics beside it for comparison.

    The card is rendered anew, so that it shows both. Raises `ValueError` for weights over 10 MB.
    """
    if (run / WEIGHTS_NAME).stat().st_size > MAX_BYTES:
        raise ValueError(f"{run / WEIGHTS_NAME} is larger than {MAX_BYTES / 1e6:.0f} MB and cannot be bundled.")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(run / "figures", folder / "figures", ignore=shutil.ignore_patterns("maps.png"))  # shows scans
    for name in FILES:
        shutil.copyfile(run / name, folder / name)
    if (run / "explanations.json").is_file():
        shutil.copyfile(run / "explanations.json", folder / "explanations.json")
    if official is not None:
        shutil.copyfile(official / "metrics.json", folder / "official.json")
    (folder / "README.md").write_text(card_of(folder), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder that training wrote")
    parser.add_argument("name", help="name among the bundled checkpoints")
    parser.add_argument("--official", type=Path, help="folder of the same recipe's run on the official split")
    arguments = parser.parse_args()
    bundle(arguments.run, BUNDLED / arguments.name, arguments.official)
    print(f"bundled/{arguments.name} is ready; update the README with: python -m training.results README.md")


if __name__ == "__main__":
    main()
