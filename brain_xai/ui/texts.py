"""Every sentence a visitor reads, and how labels and measured numbers are put into words."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from brain_xai.classifier import CheckpointInfo, PredictionWarning
from brain_xai.methods import METHODS, Method
from brain_xai.preprocess import FORMATS_TEXT
from brain_xai.ui.privacy import KEPT_MINUTES

TITLE = "Brain XAI"
TAGLINE = "See what a model makes of a brain-MRI slice, and what in the picture its answer rests on."
DISCLAIMER = (
    "For research and teaching. This is not a diagnosis.",
    "The model can be wrong, even when it sounds sure. If you worry about a scan, ask a doctor.",
)
UPLOAD = f"# Choose a brain-MRI slice\nDrop, paste or click. {FORMATS_TEXT}, up to 20 MB"
EXAMPLES = "No scan at hand? Try one of these"
PRIVACY = (
    f"Your picture goes to this server only and is deleted there after about {KEPT_MINUTES} minutes. It is not logged "
    "and not used for training. Still, please choose a picture without a name or date of birth on it."
)
EMPTY_RESULT = "The answer appears here as soon as you choose a picture."
PICTURE_LABEL = "Brain-MRI slice"
PROBABILITIES_LABEL = "What the model thinks"
OVERLAY_LABEL = "Why: what the model saw, and what its answer rests on"
OPACITY_LABEL = "Strength of the colours"
OUTLINE_LABEL = "Outline the strongest area"
COMPARE = "Compare all methods (takes some seconds)"
CHANNELS_LABEL = "What the strongest channels react to"
METHOD_LABEL = "How to explain"
TARGET_LABEL = "Class to explain"
PREDICTED = "the model's own answer"
CHECKPOINT_LABEL = "Model"
ABOUT_MODEL = "About this model"
HOW_TO_READ = "How to read the colours"
START = "Compute this map (takes some seconds)"
CANCEL = "Cancel"
WAITING = "Waiting for its turn …"

READING = """
- **Orange** speaks **for** the class that is explained, **blue** speaks **against** it. The stronger the colour, the
  more it counts. Where you see the plain grey scan, the picture hardly mattered.
- The bar below the picture says how much evidence full colour stands for. It is the same for every picture, so a pale
  map means: the model found little to hold on to.
- A map shows what **the model** looked at, not where a tumour is. A model can be right for the wrong reason.
- Colours on the skull, outside the head or on a written note are a warning: then do not trust the answer.
"""

NO_PICTURE = "There is no picture yet. Choose a picture of one MRI slice; in Python, pass handle_file(path)."
PICTURE_EXPIRED = f"Your picture was deleted: uploads are kept for {KEPT_MINUTES} minutes. Please choose it again."
MAP_EXPIRED = f"This map was deleted: results are kept for {KEPT_MINUTES} minutes. Please choose your picture again."
UNREADABLE_CALL = (
    "This call cannot be read. `image` must be an uploaded file: in Python, pass handle_file(path); over HTTP, upload "
    'the file first and send {"path": …, "meta": {"_type": "gradio.FileData"}}. The API page lists every argument.'
)
CHECKPOINT_UNAVAILABLE = "This model cannot be loaded at the moment. Choose another one, or try again later."
NO_CHECKPOINT = (
    "There is no checkpoint to serve. Train one (training/train.py) into brain_xai/bundled/<name>, or name one in "
    "BRAIN_XAI_CHECKPOINTS."
)

PREDICT_DESCRIPTION = "Classify one scan, `handle_file(path)`; `probabilities` {label: p} are calibrated and sum to 1."
EXPLAIN_DESCRIPTION = (
    "Explain one class of one scan: the overlay (PNG), the attribution (.npy, float32 [H, W], > 0 speaks for "
    "the label) and what they mean (JSON): `unit` and `scale` (the evidence drawn in full color) of the attribution, "
    'the `prediction`, and more. `target` is a label or "predicted".'
)
COMPARE_DESCRIPTION = (
    "Explain one class of one scan by every method that works on the checkpoint: a gallery of overlays, each with its "
    "method's key as caption, and what they mean (JSON), with the reason for each method that is missing."
)
CHECKPOINTS_DESCRIPTION = "List the checkpoints this server offers, the default first, with their measured metrics."

# Only display text: which classes there are is up to the checkpoint.
NO_TUMOR = "notumor"
# Never the bare words "no tumor": the model can only say that it recognized none.
LABEL_TEXTS = {NO_TUMOR: "no tumor recognized", "pituitary": "pituitary tumor"}
SPLIT_TEXTS = {
    "purged": "No copy of a test scan was used for training.",
    "grouped": "No copy of a test scan was used for training.",
    "official": "Many test scans have a copy among the training scans, so this number flatters the model.",
}


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
    """Say which checkpoints there are."""
    return f"There is no such checkpoint here. Use one of: {', '.join(('default', *allowed))}."


def unknown_method(methods: Sequence[str]) -> str:
    """Say which methods there are."""
    return f"There is no such method. Use one of: {', '.join(methods)}."


def checkpoint_text(checkpoint: str) -> str:
    """Return a checkpoint's id as people read it: of a folder just the name, for where it lies is nobody's business."""
    return Path(checkpoint).name if Path(checkpoint).is_dir() else checkpoint


def stand_in(checkpoint: str, bundled: str) -> str:
    """Say that a bundled checkpoint answers instead of one that was never fetched."""
    return (
        f"{checkpoint_text(checkpoint)} could not be fetched from the Hub yet, so {bundled} answers. "
        "Try again in a few minutes for the model you chose."
    )


def revision_refused(checkpoint: str, revision: str) -> str:
    """Say that the newest revision on the Hub is not used."""
    return (
        f"The newest revision of {checkpoint} on the Hub cannot be used, so the one before answers "
        f"(revision {revision[:12]})."
    )


def caption(method: Method, label: str, quality: Mapping | None) -> str:
    """Say in HTML what a map shows, and how often such maps point at the tumour."""
    colors = (
        "orange speaks for it, blue against it."
        if method.signed
        else "the more orange, the more an area matters. This map does not tell for from against."
    )
    measured = f'<br><span class="fine-print">{escape(how_good(quality))}</span>' if is_tumor(label) else ""
    return f"{escape(method.title)} for <strong>{escape(label_text(label))}</strong>: {colors}{measured}"


def how_good(quality: Mapping | None) -> str:
    """Say how often the maps of a method point at the tumour, from what was measured for this model."""
    pointing = (quality or {}).get("pointing_game")
    if not pointing:
        return "How often this method points at the tumor has not been measured for this model."
    return (
        f"In {_percent(pointing['value'])} of {pointing['n']:,} test scans with a marked tumor, the strongest point of "
        f"this method's map lay inside the tumor (95\N{NO-BREAK SPACE}% interval {_percent(pointing['low'])} to "
        f"{_percent(pointing['high'])})."
    )


def short_caption(method: Method, label: str, quality: Mapping | None) -> str:
    """Return the caption of a small map: its method, and how often that method points at the tumor in test scans."""
    pointing = (quality or {}).get("pointing_game")
    if not pointing or not is_tumor(label):
        return method.title
    return f"{method.title} (hit the tumor in {round(100 * pointing['value'])} of 100 test scans)"


def gallery_label(label: str) -> str:
    """Say what the maps side by side explain."""
    return f"Every method, for {label_text(label)}"


def channel_caption(number: int) -> str:
    """Name a channel of the model's last layer."""
    return f"channel {number}"


def not_applicable(reasons: Mapping[str, str]) -> str:
    """Say in HTML why some methods are missing among the maps side by side, "" where none is."""
    return "".join(
        f'<p class="fine-print">{escape(METHODS[key].title)}: {escape(why)}</p>' for key, why in reasons.items()
    )


def disclaimer() -> str:
    """Return the sentence that nobody may miss, as HTML."""
    first, second = DISCLAIMER
    return f'<p class="notice disclaimer" role="note"><strong>{first}</strong> {second}</p>'


def empty_result() -> str:
    """Return what stands in the place of an answer, as HTML."""
    return f'<p class="empty">{EMPTY_RESULT}</p>'


def progress(done: int, total: int, preview: str | None = None) -> str:
    """Return a progress bar as HTML, with a picture (its address) of what is known by now."""
    bar = f'<progress value="{done}" max="{total}" aria-label="Progress"></progress>'
    picture = f'<img src="{preview}" alt="The map as far as it is known">' if preview else ""
    return f"{bar} <span>{round(100 * done / total)} % done</span>{picture}"


def notices(warnings: Sequence[PredictionWarning]) -> str:
    """Return the warnings of a prediction as HTML, "" where there are none."""
    return "".join(f'<p class="notice" role="status">{escape(warning.message)}</p>' for warning in warnings)


def refusal(sentence: str) -> str:
    """Return what went wrong as HTML that screen readers announce."""
    return f'<p class="notice refusal" role="alert">{escape(sentence)}</p>'


def accuracy(metrics: Mapping) -> str:
    """Say how often the model was right on which test scans, from the content of metrics.json."""
    measured = metrics.get("test", {}).get("accuracy")
    if measured is None:
        return "Nobody has measured how often this model is right. Take its answer as a demonstration only."
    sentence = (
        f"This model was right on {_percent(measured['value'])} of {metrics['test']['n']:,} test scans "
        f"(95\N{NO-BREAK SPACE}% interval {_percent(measured['low'])} to {_percent(measured['high'])})."
    )
    return f"{sentence} {SPLIT_TEXTS.get(metrics.get('split'), '')}".strip()


def about_model(info: CheckpointInfo, metrics: Mapping, warnings: Sequence[PredictionWarning] = ()) -> str:
    """Describe a checkpoint in Markdown, with what must be known about it."""
    text = accuracy(metrics)
    missed = metrics.get("test", {}).get("tumor_miss_rate")
    if missed:
        text += (
            f" It called {_percent(missed['value'])} of the scans with a tumour free of one "
            f"({_percent(missed['low'])} to {_percent(missed['high'])})."
        )
    facts = f"`{checkpoint_text(info.id)}` · {info.architecture} · revision `{info.revision}`"
    return "\n\n".join([text, *(warning.message for warning in warnings), facts])


def _percent(share: float) -> str:
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"
