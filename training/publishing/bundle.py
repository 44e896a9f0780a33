"""Bundle a finished run with the package, without its example scans."""

import shutil
from pathlib import Path

from brain_xai.checkpoint.schema import WEIGHTS_NAME
from training.publishing.local_paths import check_no_local_paths
from training.publishing.upload import PushError
from training.report.card import card_of

MAX_BYTES = 13_000_000


def bundle(run: Path, folder: Path, official: Path | None = None) -> None:
    """Copy a run's checkpoint to `folder` and render its card there.

    Args:
        run: Folder that training wrote.
        folder: Destination; replaced if it exists.
        official: Run of the same settings on the official split, whose metrics the card shows for comparison.

    Raises:
        PushError: The weights are missing or larger than `MAX_BYTES`, or a file names a path of this machine..
    """
    files = {name: run / name for name in ("config.json", WEIGHTS_NAME, "metrics.json", "explanations.json")}
    if official is not None:
        files["official.json"] = official / "metrics.json"
    files = {name: file for name, file in files.items() if name != "explanations.json" or file.is_file()}
    for file in files.values():
        if not file.is_file():
            raise PushError(f"There is no {file}.")
    if files[WEIGHTS_NAME].stat().st_size > MAX_BYTES:
        raise PushError(f"{files[WEIGHTS_NAME]} is larger than {MAX_BYTES / 1e6:.0f} MB, so it cannot be bundled.")
    check_no_local_paths(files)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(run / "figures", folder / "figures", ignore=shutil.ignore_patterns("maps.png"))  # shows scans
    for name, file in files.items():
        shutil.copyfile(file, folder / name)
    (folder / "README.md").write_text(card_of(folder), encoding="utf-8")
