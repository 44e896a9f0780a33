"""The folded part of the page: models, data and what is wrong with it, limits, links, citation.

Every number is read from the files of the checkpoints; where one is missing, its sentence is left out.
"""

import base64
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageOps

from brain_xai import __version__
from brain_xai.checkpoint.catalog import BUNDLED, checkpoint_folder, is_on_hub
from brain_xai.checkpoint.schema import CheckpointError, read_json
from brain_xai.methods import METHODS
from brain_xai.ui.language import _
from brain_xai.ui.measured import model_name
from brain_xai.ui.texts import checkpoint_text

YEAR = 2026
DATA_SETS = {
    "Brain Tumor MRI Dataset": "https://www.kaggle.com/datasets/masoudnickparvar/brain-tumor-mri-dataset",
    "figshare brain tumor dataset": "https://doi.org/10.6084/m9.figshare.1512427",
    "Brain MRI Images for Brain Tumor Detection": (
        "https://www.kaggle.com/datasets/navoneel/brain-mri-images-for-brain-tumor-detection"
    ),
    "TCGA-LGG": "https://www.cancerimagingarchive.net/collection/tcga-lgg/",
    "IXI": "https://brain-development.org/ixi-dataset/",
}
# In the four-class set as published, this scan is among the training images, and its mirror image among the test
# images (as files Tr-me_0773 and Te-me_0277; correlation of the gray values above 0.999).
COPIED_SCAN, COPIED_SOURCE = "meningioma_663.jpg", "brain-tumor-mri"
COPIED_SIDE = 200


@dataclass(frozen=True)
class Model:
    """What the files of a checkpoint say about it; each is {} where it is missing."""

    checkpoint: str
    config: Mapping
    metrics: Mapping
    official: Mapping
    explanations: Mapping

    @property
    def accuracy(self) -> float | None:
        """The share of right answers on the test scans of its own collection."""
        return (self.metrics.get("test", {}).get("accuracy") or {}).get("value")

    @property
    def found_elsewhere(self) -> float | None:
        """The share of the tumors in scans from other collections that it recognized as tumors."""
        healthy = self.config.get("brain_xai", {}).get("training", {}).get("no_tumor_label")
        kinds = self.metrics.get("shortcuts", {}).get("kinds", {})
        measured = [
            kind["tumor_or_not"]
            for name, kind in kinds.items()
            if name != "test" and healthy and not name.endswith(f" {healthy}")
        ]
        n = sum(entry["n"] for entry in measured)
        return sum(entry["value"] * entry["n"] for entry in measured) / n if n else None

    @property
    def pointing(self) -> float | None:
        """How often the strongest point of its best maps lies inside the tumor."""
        methods = self.explanations.get("methods", {})
        found = [(entry.get("pointing_game") or {}).get("value") for entry in methods.values()]
        return max((value for value in found if value is not None), default=None)


def read_model(checkpoint: str) -> Model:
    """Return what is known about a checkpoint from its files, without loading its weights or asking the Hub."""
    folder = checkpoint_folder(checkpoint)

    def content(name: str) -> dict:
        try:
            return read_json(folder / name) if folder else {}
        except CheckpointError:
            return {}

    names = ("config", "metrics", "official", "explanations")
    return Model(checkpoint, *(content(f"{name}.json") for name in names))


def models(checkpoints: Iterable[str]) -> str:
    """Return the models to choose from in Markdown, each with a reason to choose it, from what was measured."""
    known = [read_model(checkpoint) for checkpoint in checkpoints]
    return "\n".join(f"- **{model_name(model.checkpoint)}**: {_measured(model, known)}" for model in known)


def data(checkpoint: str) -> str:
    """Return in Markdown what the data of a checkpoint is, what is wrong with it, and what that changes."""
    model = read_model(checkpoint)
    about = model.metrics.get("data", {})
    lines = [_counts(about), _copies(about), _copy_shown(about), _two_truths(model), _sequences(), _patients()]
    return "\n\n".join(filter(None, lines))


def limits(checkpoint: str) -> str:
    """Return in Markdown what a checkpoint cannot do."""
    config = read_model(checkpoint).config
    size = config.get("pretrained_cfg", {}).get("input_size", ())
    lines = [
        _("It is for research and teaching, and not a medical device. It never gives a diagnosis."),
        _("It knows only the classes that it was trained on. Other tumors, strokes, bleeding and inflammation are not "
          "among them."),
    ]  # fmt: skip
    if len(size) == 3:
        lines.append(
            _("It sees a single slice as a gray image of {width} × {height} pixels: no other slices, no history.",
              width=size[2], height=size[1])
        )  # fmt: skip
    lines += [
        _("Scans from other scanners and hospitals can look unfamiliar to it. Expect more mistakes there."),
        _("A map shows what the model used, not where a tumor is."),
    ]
    return "\n".join(f"- {line}" for line in lines)


def links(checkpoint: str) -> str:
    """Return in Markdown the paper of each method, and where model card, code, data and licenses are."""
    papers = " · ".join(f"[{method.title}]({method.paper})" for method in METHODS.values())
    sets = " · ".join(f"[{name}]({address})" for name, address in DATA_SETS.items())
    lines = [
        _("**Papers of the methods:** {links}", links=papers),
        _("**Data:** {links}", links=sets),
        _("**Model card:** {link}", link=_card(checkpoint)),
        _("**Code:** {link}", link=_code()),
        _("**License:** MIT for code and weights. Scans keep the license that stands below them."),
    ]
    return "\n\n".join(lines)


def cite(checkpoint: str, revision: str) -> str:
    """Return in Markdown how to cite the software with the model that answered, and how to report a mistake."""
    fields = {
        "title": "Brain XAI: brain-MRI classification with measured explanations",
        "author": "{Brain XAI contributors}",
        "year": YEAR,
        "version": __version__,
        "url": _space(),
        "note": f"model {checkpoint_text(checkpoint)}, revision {revision}",
    }
    lines = "".join(f"  {name} = {{{value}}},\n" for name, value in fields.items() if value)
    entry = f"```bibtex\n@software{{brain_xai,\n{lines}}}\n```"
    return f"{entry}\n\n{_report()}"


def _measured(model: Model, known: Sequence[Model]) -> str:
    if model.accuracy is None:
        sentences = [_("not measured.")]
    elif model.found_elsewhere is None:
        home = round(100 * model.accuracy)
        sentences = [_("right on {home} of 100 at home; not measured on other collections.", home=home)]
    else:
        home, away = round(100 * model.accuracy), round(100 * model.found_elsewhere)
        text = _("right on {home} of 100 at home, {away} of 100 tumors found elsewhere.", home=home, away=away)
        sentences = [text]
    return " ".join([*sentences, *_reasons(model, known)])


def _reasons(model: Model, known: Sequence[Model]) -> list[str]:
    """Return in what a model was measured to be the best of several."""
    if len(known) < 2:
        return []
    reasons = {
        "accuracy": _("Most often right at home."),
        "found_elsewhere": _("Finds the most tumors elsewhere."),
        "pointing": _("Its best maps hit the tumor most often."),
    }
    best = [reason for name, reason in reasons.items() if _is_best(model, known, name)]
    return best or [_("Good for a second opinion.")]


def _is_best(model: Model, known: Sequence[Model], name: str) -> bool:
    """Return whether a model has the highest value of several, to be compared with at least one other."""
    others = [value for other in known if other is not model and (value := getattr(other, name)) is not None]
    value = getattr(model, name)
    return value is not None and bool(others) and value > max(others)


def _counts(about: Mapping) -> str:
    if not {"source", "images", "distinct_pictures"} <= set(about):
        return ""
    return _(
        "Trained and tested on `{source}`: {images} images, of which only {distinct} are different.",
        source=about["source"], images=about["images"], distinct=about["distinct_pictures"],
    )  # fmt: skip


def _copies(about: Mapping) -> str:
    total, copies = about.get("test_images"), about.get("test_images_with_copy_in_train")
    if not total or copies is None:
        return ""
    return _(
        "**Of the {total} test images, {copies} ({share} of 100) have a copy in the training set as it was published, "
        "often mirrored.** Whoever uses it as it is measures memory. Copies were found by comparing all images with "
        "each other, mirrored ones, too.",
        total=total, copies=copies, share=round(100 * copies / total),
    )  # fmt: skip


def _copy_shown(about: Mapping) -> str:
    """Return a scan beside its mirrored copy, where the data set holds the two."""
    file = BUNDLED / "examples" / COPIED_SCAN
    if about.get("source") != COPIED_SOURCE or not file.is_file():
        return ""
    with Image.open(file) as image:
        scan = ImageOps.fit(image.convert("L"), (COPIED_SIDE, COPIED_SIDE))
    images = "".join(
        f'<img src="{_data_url(shown)}" alt="{alt}" width="{COPIED_SIDE}" height="{COPIED_SIDE}" '
        'style="display: inline-block; margin: 0 4px 0 0">'
        for shown, alt in ((scan, _("A training image")), (ImageOps.mirror(scan), _("A test image, the same mirrored")))
    )
    caption = _(
        "Left a training image, right a test image of the set as published: the same slice, mirrored. Image: figshare "
        "brain tumor dataset, Jun Cheng 2017, CC BY 4.0."
    )
    return f'{images}\n\n<span class="fine-print">{caption}</span>'


def _two_truths(model: Model) -> str:
    """Return the accuracy with and without copies where both were measured, else how this model was measured."""
    official = (model.official.get("test", {}).get("accuracy") or {}).get("value")
    split = model.metrics.get("split")
    if model.accuracy is not None and official is not None and split != "official":
        head = f"| | {_('copies removed')} | {_('as published')} |\n| --- | ---: | ---: |"
        counts = [_("right on {count} of 100", count=round(100 * value)) for value in (model.accuracy, official)]
        return f"{head}\n| {_('The same settings, trained twice')} | {' | '.join(counts)} |"
    if split in ("purged", "grouped"):
        return _("This model was trained without those copies, so its numbers are lower and mean more.")
    return ""


def _sequences() -> str:
    return _(
        "In public sets, scans with a tumor are nearly all contrast-enhanced T1, and scans without one are not. A "
        "model can learn that difference instead of the tumor, and then misses tumors in other kinds of scans."
    )


def _patients() -> str:
    return _(
        "The images carry no patient number, so slices of one patient can be among the training and the test images."
    )


def _card(checkpoint: str) -> str:
    if is_on_hub(checkpoint):
        return f"[{checkpoint}](https://huggingface.co/{checkpoint.partition('@')[0]})"
    name = checkpoint_text(checkpoint)
    if _space() and checkpoint.startswith("bundled/"):
        return f"[{name}]({_space()}/blob/main/brain_xai/{checkpoint}/README.md)"
    return _("README.md in the folder of {name}", name=name)


def _code() -> str:
    return f"[{_space()}]({_space()}/tree/main)" if _space() else "Brain XAI " + __version__


def _report() -> str:
    place = f"{_space()}/discussions/new" if _space() else ""
    if place:
        return _(
            "**Report a mistake:** [open a discussion]({address}). Never post an image of a patient.", address=place
        )
    return _("**Report a mistake** to whoever runs this server. Never send an image of a patient.")


def _space() -> str:
    """Return the address of the Space that runs this, "" anywhere else."""
    name = os.environ.get("SPACE_ID", "")
    return f"https://huggingface.co/spaces/{name}" if name else ""


def _data_url(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=70)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
