"""Bundle a finished run with the package, without its example scans."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from brain_xai.checkpoint.schema import WEIGHTS_NAME
from training.publishing.local_paths import check_no_local_paths
from training.publishing.upload import PushError
from training.report.card import ROBUSTNESS_FILE, card_of

MAX_BYTES = 13_000_000


def bundle(run: Path, folder: Path, official: Path | None = None) -> None:
    """Replace `folder` by a run's checkpoint with a new card; both may be the same, to render its card again.

    Args:
        run: Folder that training wrote.
        folder: Destination.
        official: Run of the same settings on the official split, whose metrics the card shows for comparison.

    Raises:
        PushError: A file is missing, the weights are larger than `MAX_BYTES`, or a file names a path of this machine.
    """
    files = {name: run / name for name in ("config.json", WEIGHTS_NAME, "metrics.json")}
    optional = ("official.json", "explanations.json", ROBUSTNESS_FILE)
    files |= {name: run / name for name in optional if (run / name).is_file()}
    if official is not None:
        files["official.json"] = official / "metrics.json"
    if missing := [str(file) for file in files.values() if not file.is_file()]:
        raise PushError(f"There is no {', '.join(missing)}.")
    if files[WEIGHTS_NAME].stat().st_size > MAX_BYTES:
        raise PushError(f"{files[WEIGHTS_NAME]} is over {MAX_BYTES / 1e6:.0f} MB, the limit of a bundle.")
    check_no_local_paths(files)
    with TemporaryDirectory(dir=folder.parent) as temporary:
        new = Path(temporary) / folder.name
        shutil.copytree(run / "figures", new / "figures", ignore=shutil.ignore_patterns("maps.png"))  # shows scans
        for name, file in files.items():
            shutil.copyfile(file, new / name)
        (new / "README.md").write_text(card_of(new), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)
