"""Every sentence a visitor reads, and how labels and measured numbers are put into words."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from brain_xai.classifier import CheckpointInfo, PredictionWarning
from brain_xai.methods import METHODS, Method
from brain_xai.preprocess import FORMATS_TEXT
from brain_xai.ui.privacy import KEPT_MINUTES

TITLE = "Brain XAI"
TAGLINE = "What does a model see in this brain scan? Choose one MRI slice, and look at what its answer is based on."
DISCLAIMER = (
    "For research and teaching. This is not a diagnosis.",
    "The model can be wrong, even when it seems certain. If you are worried about a scan, ask a doctor.",
)
UPLOAD = f"# Choose a brain-MRI slice\nDrop, paste, or click. {FORMATS_TEXT}, up to 20 MB"
EXAMPLES = "No scan at hand? Try one of these"
PRIVACY = (
    f"Your image is sent to this server only and is deleted after about {KEPT_MINUTES} minutes. It is not logged and "
    "not used for training. Even so, please choose an image without a name or date of birth on it."
)
EMPTY_RESULT = "The answer appears here as soon as you choose an image."
IMAGE_LABEL = "Brain-MRI slice"
PROBABILITIES_LABEL = "The model's answer"
OVERLAY_LABEL = "Map: the scan as the model sees it, with the areas that its answer is based on in color"
OPACITY_LABEL = "Strength of the colors"
OUTLINE_LABEL = "Outline the strongest area"
COMPARE = "Compare all methods (takes several seconds)"
CHANNELS_LABEL = "What the strongest channels respond to"
METHOD_LABEL = "Method"
TARGET_LABEL = "Explain"
PREDICTED = "the model's answer"
CHECKPOINT_LABEL = "Model"
ABOUT_MODEL = "About this model"
HOW_TO_READ = "How to read the colors"
START = "Draw this map (takes several seconds)"
CANCEL = "Cancel"
WAITING = "<p>Waiting for other maps to finish …</p>"

READING = """
- **Orange** speaks **for** the class that is explained, **blue** speaks **against** it. The stronger the color, the
  more the area counts. Where you see the plain gray scan, the image hardly mattered.
- The bar below the map shows how much evidence full color stands for. It is the same for every image, so a pale map
  means that the model found little evidence.
- A map shows what **the model** used, not where a tumor is. A model can be right for the wrong reason.
- Colors on the skull, outside the head, or on written text are a warning: do not trust the answer then.
"""

NO_IMAGE = "There is no image yet. Choose an image of one MRI slice; in Python, pass handle_file(path)."
IMAGE_EXPIRED = f"Your image was deleted: uploads are kept for {KEPT_MINUTES} minutes. Please choose it again."
MAP_EXPIRED = f"This map was deleted: results are kept for {KEPT_MINUTES} minutes. Please choose your image again."
CHECKPOINT_UNAVAILABLE = "This model cannot be loaded at the moment. Choose another one, or try again later."
NO_CHECKPOINT = (
    "There is no checkpoint to serve. Train one (training/train.py) into brain_xai/bundled/<name>, or name one in "
    "BRAIN_XAI_CHECKPOINTS."
)

# The API page shows these as the descriptions of the endpoints.
# Only display text: the checkpoint defines the classes. Never the bare words "no tumor", because the model can only
# fail to recognize one.
NO_TUMOR = "notumor"
LABEL_TEXTS = {NO_TUMOR: "no tumor recognized", "pituitary": "pituitary tumor"}
NOT_RULED_OUT = (
    "**This does not rule out a tumor.** The model knows only the classes above, and it can miss many more tumors in "
    "scans unlike those of its own collection."
)
LEAKY_SPLIT = "Many test scans have a copy among the training scans, so these numbers flatter the model."
SPLIT_TEXTS = {
    "purged": "No copy of a test scan was used for training.",
    "grouped": "No copy of a test scan was used for training.",
    "official": LEAKY_SPLIT,
}
NOT_MEASURED = "How often this model is right has not been measured. Treat its answer as a demonstration only."
NOT_MEASURED_ELSEWHERE = "It has not been measured on scans from other collections; expect it to be worse there."
# A kind of scans from another collection counts from this number of scans on; fewer say too little.
MIN_SCANS = 50


def label_text(label: str) -> str:
    """Return the text of a class key: "notumor" -> "no tumor recognized", "low_grade" -> "low grade"."""
    return LABEL_TEXTS.get(label, label.replace("_", " "))


def heading(label: str) -> str:
    """Return the text of a class key as a heading: "notumor" -> "No tumor recognized"."""
    text = label_text(label)
    return text[:1].upper() + text[1:]


def is_tumor(label: str) -> bool:
    """Return whether a class is a kind of tumor, so that a map for it can point at one."""
    return label != NO_TUMOR


def unknown_checkpoint(allowed: Sequence[str]) -> str:
    """Return the error for a checkpoint that is not allowed."""
    return f"There is no such checkpoint here. Use one of: {', '.join(('default', *allowed))}."


def unknown_method(methods: Sequence[str]) -> str:
    """Return the error for a method that does not exist."""
    return f"There is no such method. Use one of: {', '.join(methods)}."


def checkpoint_text(checkpoint: str) -> str:
    """Return a checkpoint's id for display: only the name of a folder, to never show server paths."""
    return Path(checkpoint).name if Path(checkpoint).is_dir() else checkpoint


def stand_in(checkpoint: str, bundled: str) -> str:
    """Return the warning that a bundled checkpoint answers in place of one that was never downloaded."""
    return (
        f"{checkpoint_text(checkpoint)} could not be fetched from the Hub yet, so {bundled} answers. "
        "Try again in a few minutes to use the model you chose."
    )


def revision_refused(checkpoint: str, revision: str) -> str:
    """Return the warning that the newest revision on the Hub is not used."""
    return (
        f"The newest revision of {checkpoint} on the Hub cannot be used, so the previous one answers "
        f"(revision {revision[:12]})."
    )


def caption(method: Method, label: str, quality: Mapping | None) -> str:
    """Return the HTML caption of a map: what it explains, what its colors mean, how often such maps are right."""
    colors = (
        "orange speaks for it, blue against it."
        if method.signed
        else "the more orange, the more an area matters. This method does not tell for from against."
    )
    details = f"{method.summary} {how_good(quality)}" if is_tumor(label) else method.summary
    return (
        f"{escape(method.title)} for <strong>{escape(label_text(label))}</strong>: {colors}"
        f'<br><span class="fine-print">{escape(details)}</span>'
    )


def how_good(quality: Mapping | None) -> str:
    """Return how often the maps of a method point at the tumor, as measured for this model."""
    pointing = (quality or {}).get("pointing_game")
    if not pointing:
        return "How often this method points at the tumor has not been measured for this model."
    return (
        f"In {_percent(pointing['value'])} of {pointing['n']:,} test scans with a marked tumor, the strongest point of "
        f"this method's map was inside the tumor (95\N{NO-BREAK SPACE}% interval {_percent(pointing['low'])} to "
        f"{_percent(pointing['high'])})."
    )


def short_caption(method: Method, label: str, quality: Mapping | None) -> str:
    """Return the caption of a small map: its method, and how often that method points at the tumor in test scans."""
    pointing = (quality or {}).get("pointing_game")
    if not pointing or not is_tumor(label):
        return method.title
    return f"{method.title} (hit the tumor in {_of_100(pointing['value'])} test scans)"


def gallery_label(label: str) -> str:
    """Return the heading of the maps side by side."""
    return f"All methods, for {label_text(label)}"


def channel_caption(number: int) -> str:
    """Return the name of a channel of the model's last layer."""
    return f"channel {number}"


def not_applicable(reasons: Mapping[str, str]) -> str:
    """Return in HTML why some methods are missing among the maps side by side, "" if none is."""
    return "".join(
        f'<p class="fine-print">{escape(METHODS[key].title)}: {escape(why)}</p>' for key, why in reasons.items()
    )


def disclaimer() -> str:
    """Return the disclaimer as HTML."""
    first, second = DISCLAIMER
    return f'<p class="notice disclaimer" role="note"><strong>{first}</strong> {second}</p>'


def empty_result() -> str:
    """Return the HTML shown in place of an answer."""
    return f'<p class="empty">{EMPTY_RESULT}</p>'


def how_to_read() -> str:
    """Return in Markdown how to read a map, and what each method shows."""
    methods = "\n".join(f"- **{method.title}.** {method.summary}" for method in METHODS.values())
    return f"{READING}\n{methods}"


def progress(done: int, total: int, preview: str | None = None) -> str:
    """Return a progress bar as HTML, with the map so far (the URL of its image) if there is one."""
    bar = f'<progress value="{done}" max="{total}" aria-label="Progress"></progress>'
    image = f'<img src="{preview}" alt="The map so far">' if preview else ""
    return f"{bar} <span>{round(100 * done / total)}\N{NO-BREAK SPACE}% done</span>{image}"


def warnings(messages: Sequence[PredictionWarning]) -> str:
    """Return the warnings of a prediction as HTML, "" if there are none."""
    return "".join(f'<p class="notice" role="status">{escape(warning.message)}</p>' for warning in messages)


def error(sentence: str) -> str:
    """Return what went wrong as HTML that screen readers announce."""
    return f'<p class="notice error" role="alert">{escape(sentence)}</p>'


def trust(label: str, metrics: Mapping) -> str:
    """Return in Markdown how far to trust an answer, in whole numbers, from the content of metrics.json."""
    measured = metrics.get("test", {})
    if "accuracy" not in measured:
        sentences = [NOT_MEASURED]
    else:
        sentences = [f"Right on {_of_100(measured['accuracy']['value'])} test scans of its own collection."]
        if measured.get("tumor_miss_rate"):
            sentences.append(f"It missed {_of_100(measured['tumor_miss_rate']['value'])} tumors there.")
        sentences.append(_elsewhere(metrics))
        if metrics.get("split") == "official":
            sentences.append(LEAKY_SPLIT)
    if not is_tumor(label):
        sentences.insert(0, NOT_RULED_OUT)
    return " ".join(sentences)


def _elsewhere(metrics: Mapping) -> str:
    """Return how a model does on scans from other collections: on the worst and on the best kind of scans."""
    kinds = metrics.get("shortcuts", {}).get("kinds", {})
    measured = [kind["tumor_or_not"] for name, kind in kinds.items() if name != "test"]
    shares = [entry["value"] for entry in measured if entry["n"] >= MIN_SCANS]
    if not shares:
        return NOT_MEASURED_ELSEWHERE
    worst, best = round(100 * min(shares)), round(100 * max(shares))
    return f"On scans from other collections it told tumor from no tumor in {worst} to {best} of 100."


def about_model(info: CheckpointInfo, metrics: Mapping, messages: Sequence[PredictionWarning] = ()) -> str:
    """Return a description of a checkpoint in Markdown, with its measured numbers and its warnings."""
    facts = f"`{checkpoint_text(info.id)}` · {info.architecture} · revision `{info.revision}`"
    return "\n\n".join([_measured(metrics), *(warning.message for warning in messages), facts])


def _measured(metrics: Mapping) -> str:
    """Return how often a model is right, with intervals and what kind of test scans these were."""
    measured = metrics.get("test", {})
    accuracy, missed = measured.get("accuracy"), measured.get("tumor_miss_rate")
    if accuracy is None:
        return NOT_MEASURED
    sentences = [
        f"This model was right on {_percent(accuracy['value'])} of {measured['n']:,} test scans "
        f"({_interval(accuracy)})."
    ]
    if missed:
        sentences.append(
            f"In {_percent(missed['value'])} of the scans with a tumor it recognized none ({_interval(missed)})."
        )
    return " ".join([*sentences, SPLIT_TEXTS.get(metrics.get("split"), "")]).strip()


def _interval(measured: Mapping) -> str:
    return f"95\N{NO-BREAK SPACE}% interval {_percent(measured['low'])} to {_percent(measured['high'])}"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}\N{NO-BREAK SPACE}%"


def _of_100(fraction: float) -> str:
    """Return a measured fraction as people count; never all or none, which no sample can show."""
    count = round(100 * fraction)
    if count in (0, 100):
        return "more than 99 of 100" if count else "fewer than 1 of 100"
    return f"{count} of 100"
