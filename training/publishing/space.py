"""The files of the Space, and a check that it would start."""

from pathlib import Path

from huggingface_hub import SpaceCard
from yaml import YAMLError

from training.publishing.upload import PushError

FILES = ("app.py", "requirements.txt", "README.md", "LICENSE")
MAX_DESCRIPTION = 60


def space_files(root: Path) -> dict[str, Path]:
    """Return {path in the Space: file}: the app, the package, README and license of the repository in `root`."""
    package = (path for path in sorted((root / "brain_xai").rglob("*")) if path.is_file() and path.suffix != ".pyc")
    return {path.relative_to(root).as_posix(): path for path in (*(root / name for name in FILES), *package)}


def check_front_matter(root: Path) -> None:
    """Raise `PushError` if README.md would make a Space that does not start.

    The Hub validates the front matter itself, before the first file is sent. Checked here is what it cannot see: that
    the app's file exists, and that no version lacks its quotes (YAML reads `python_version: 3.10` as 3.1).
    """
    try:
        card = SpaceCard.load(root / "README.md").data
    except (ValueError, YAMLError) as error:
        raise PushError(f"The front matter of README.md cannot be read: {error}") from error
    faults = {
        "sdk must be gradio": card.sdk == "gradio",
        "python_version must be quoted": isinstance(card.python_version, str),
        "sdk_version must be like 6.31.0": str(card.sdk_version).count(".") == 2,
        f"app_file must name a file, {card.app_file} does not": (root / str(card.app_file)).is_file(),
        f"short_description may have at most {MAX_DESCRIPTION} characters": len(card.get("short_description") or "")
        <= MAX_DESCRIPTION,
    }
    wrong = [sentence for sentence, is_met in faults.items() if not is_met]
    if wrong:
        raise PushError(f"The front matter of README.md does not fit a Space: {'; '.join(wrong)}.")
