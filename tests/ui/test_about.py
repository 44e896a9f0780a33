"""The folded part of the page: numbers come from the files of the checkpoints, and nothing is said without one."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from brain_xai import METHODS, __version__
from brain_xai.checkpoint.catalog import BUNDLED, bundled_checkpoints
from brain_xai.ui import about

ROOT = Path(__file__).parents[2]
DATA = {"source": "brain-tumor-mri", "images": 7019, "distinct_pictures": 3567, "test_images": 1000}
COPIES = DATA | {"test_images_with_copy_in_train": 760}


def measured(value: float, n: int = 100) -> dict:
    return {"value": value, "low": value, "high": value, "n": n}


def write_model(folder: Path, accuracy: float, kinds: dict | None = None, **files: dict) -> str:
    """Write the JSON files of a checkpoint; what is said about it needs no weights."""
    folder.mkdir()
    config = {"brain_xai": {"training": {"no_tumor_label": "healthy"}}, "pretrained_cfg": {"input_size": [3, 128, 160]}}
    metrics = {"split": "purged", "test": {"accuracy": measured(accuracy)}, "data": COPIES}
    if kinds:
        metrics["shortcuts"] = {"kinds": {name: {"tumor_or_not": entry} for name, entry in kinds.items()}}
    for name, content in ({"config": config, "metrics": metrics} | files).items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return str(folder)


def images(text: str) -> list[np.ndarray]:
    urls = re.findall(r"data:image/webp;base64,([\w+/=]+)", text)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(url))).convert("L"), dtype=float) for url in urls]


def test_models_are_compared_by_what_was_measured(tmp_path):
    kinds = {
        "test": measured(0.1, 1000),
        "there T1 tumor": measured(0.9, 300),
        "there T2 tumor": measured(0.5, 100),
        "there T1 healthy": measured(0.0, 500),
    }
    one = write_model(tmp_path / "one", 0.92, kinds)
    two = write_model(tmp_path / "two", 0.86)
    first, second = about.models([one, two]).splitlines()
    assert first == "- **one**: right on 92 of 100 at home, 80 of 100 tumors found elsewhere. Most often right at home."
    assert second == (
        "- **two**: right on 86 of 100 at home; not measured on other collections. Good for a second opinion."
    )
    assert about.models([two]) == "- **two**: right on 86 of 100 at home; not measured on other collections."


def test_each_model_is_named_for_what_it_is_best_at(tmp_path):
    def maps(value: float) -> dict:
        return {"methods": {"grad_cam": {"pointing_game": measured(value)}, "other": {"pointing_game": None}}}

    kinds = {"there tumor": measured(0.7)}
    one = write_model(tmp_path / "one", 0.92, kinds, explanations=maps(0.8))
    two = write_model(tmp_path / "two", 0.86, {"there tumor": measured(0.8)}, explanations=maps(0.9))
    first, second = about.models([one, two]).splitlines()
    assert first.endswith("found elsewhere. Most often right at home.")
    assert second.endswith("Finds the most tumors elsewhere. Its best maps hit the tumor most often.")


def test_a_model_without_numbers_claims_none(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "metrics.json").write_text("not JSON")
    assert about.models([str(empty)]) == "- **empty**: not measured."
    assert not re.search(r"\d", about.data(str(empty)).replace("T1", ""))
    assert not re.search(r"\d", about.limits(str(empty)))


def test_the_leak_is_told_in_the_numbers_of_the_checkpoint(tmp_path):
    text = about.data(write_model(tmp_path / "one", 0.92))
    assert "`brain-tumor-mri`: 7019 images, of which only 3567 are different." in text
    assert "Of the 1000 test images, 760 (76 of 100) have a copy in the training set" in text
    assert "trained without those copies" in text


def test_the_leak_is_shown_by_a_scan_and_its_mirror_image(tmp_path):
    scan, copy = images(about.data(write_model(tmp_path / "one", 0.92)))
    assert np.abs(scan[:, ::-1] - copy).mean() < 4  # of 255; each is compressed by itself
    assert np.abs(scan - copy).mean() > 10
    other = write_model(tmp_path / "other", 0.92, metrics={"data": COPIES | {"source": "another"}})
    assert images(about.data(other)) == []


def test_the_shown_leak_is_real(data_root):
    """The training image and the mirrored test image are in the set as published."""
    shown = _pixels(BUNDLED / "examples" / about.COPIED_SCAN)
    folder = data_root / "brain-tumor-mri"
    training, test = (
        folder / name for name in ("Training/meningioma/Tr-me_0773.jpg", "Testing/meningioma/Te-me_0277.jpg")
    )
    assert np.corrcoef(shown.ravel(), _pixels(training).ravel())[0, 1] > 0.999
    assert np.corrcoef(shown[:, ::-1].ravel(), _pixels(test).ravel())[0, 1] > 0.999


def _pixels(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image.convert("L").resize((96, 96), Image.Resampling.BILINEAR), dtype=float)


def test_purged_and_official_numbers_stand_side_by_side(tmp_path):
    official = {"test": {"accuracy": measured(0.981)}}
    text = about.data(write_model(tmp_path / "one", 0.92, official=official))
    assert "| copies removed | as published |" in text
    assert "| right on 92 of 100 | right on 98 of 100 |" in text


def test_limits_name_the_size_that_the_model_sees(tmp_path):
    assert "160 × 128 pixels" in about.limits(write_model(tmp_path / "one", 0.9))


def test_every_method_links_to_its_paper(monkeypatch):
    monkeypatch.delenv("SPACE_ID", raising=False)
    text = about.links(bundled_checkpoints()[0])
    assert all(f"[{method.title}]({method.paper})" in text for method in METHODS.values())
    assert "huggingface.co" not in text


def test_on_a_space_code_card_and_reports_have_addresses(monkeypatch):
    monkeypatch.setenv("SPACE_ID", "org/brain")
    name = bundled_checkpoints()[0]
    text = about.links(name) + about.cite(name, "abc")
    space = "https://huggingface.co/spaces/org/brain"
    assert f"{space}/blob/main/brain_xai/{name}/README.md" in text
    assert (BUNDLED / Path(name).name / "README.md").is_file()
    assert f"{space}/discussions/new" in text
    assert "(https://huggingface.co/org/model)" in about.links("org/model@main")


def test_the_citation_names_version_year_and_model():
    text = about.cite("bundled/x", "abc123")
    assert f"version = {{{__version__}}}" in text
    assert "model bundled/x, revision abc123" in text
    assert f"(c) {about.YEAR} " in (ROOT / "LICENSE").read_text()


def test_no_path_of_the_server_is_shown(tmp_path):
    name = write_model(tmp_path / "one", 0.9)
    shown = "".join(
        [about.models([name]), about.data(name), about.limits(name), about.links(name), about.cite(name, "a")]
    )
    assert str(tmp_path) not in shown


@pytest.mark.parametrize("name", bundled_checkpoints())
def test_the_bundled_checkpoints_have_something_to_say(name):
    assert re.search(r"right on \d+ of 100 at home", about.models([name]))
    assert "have a copy in the training set" in about.data(name)
    assert len(images(about.data(name))) == 2
