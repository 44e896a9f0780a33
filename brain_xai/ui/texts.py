"""The sentences of the page, and how labels are put into words."""

import re
from collections.abc import Sequence
from html import escape, unescape
from pathlib import Path

from brain_xai.methods import METHODS
from brain_xai.preprocess import FORMATS_TEXT, MAX_FILE_BYTES
from brain_xai.ui.cases import NOT_A_BRAIN
from brain_xai.ui.language import _, translated
from brain_xai.ui.monitoring.settings import Settings
from brain_xai.ui.privacy import KEPT_MINUTES

TITLE = "Brain XAI"
TAGLINE = "What does the model see in this brain scan?"
DISCLAIMER = (
    "For research and teaching, not a diagnosis.",
    "The model can be wrong, even when it seems certain. If you are worried about a scan, ask a doctor.",
)
CASES = "Real cases, and how the model did: guess first, then see its answer"
UPLOAD = "Choose a brain-MRI slice"
UPLOAD_NEXT = "Another scan"
UPLOAD_HINT = f"Drop, paste, or click. {FORMATS_TEXT}, up to {MAX_FILE_BYTES // 2**20} MB"
UPLOADING = "Uploading …"
TOO_LARGE = f"This file is too large: at most {MAX_FILE_BYTES // 2**20} MB can be read. Save one slice, not a series."
UPLOAD_FAILED = "The upload failed. Check your connection and try again."
PRIVACY = (
    f"Your image is sent to this server only and is deleted after about {KEPT_MINUTES} minutes. It is not logged and "
    "not used for training. Even so, please choose an image without a name or date of birth on it."
)
COUNTED = (
    "This server counts by the hour: requests and how they ended, answers per class, their mean probability, and "
    "warnings. Neither images nor visitors are recorded."
)
DELETE = "Delete my image now"
DELETED = "Your image and all that was made of it are deleted."

QUIZ = "What do you see?"
NO_GUESS = "Just show me the answer"
SHOW_BOX = "Radiologists' box"
ANYWAY = "Show me the answer anyway"
REFUSED = "This does not look like a brain MRI. No answer."

SCAN_ALT = "The scan"
SO_FAR = "The map so far"
TAP = "Tap or paint over the scan to cover it"
FULL_SCREEN = "Full screen"
COVER_STRONGEST = "Cover strongest area"
UNCOVER = "Uncover"
COVERED = "With that covered: {now} {label}: {before} before, {after} now."
METHOD_LABEL = "Kind of map · how often it hits the tumor"
TARGET_LABEL = "Tap a class to see what speaks for it"
OPACITY_LABEL = "Strength of the colors"
OUTLINE_LABEL = "Outline strongest areas"
AS_MODEL_LABEL = "As the model sees it"
COMPARE = "Compare all maps"
THE_SCAN = "The scan"
LEFT_OUT = "Not possible with this model: {methods}."
CANCEL = "Cancel"
SAVE_MAP, SAVE_NUMBERS, SAVE_REPORT = "Save map", "Save numbers", "One-page report"
CHECKPOINT_LABEL = "Model"
ABOUT_MODEL = "About this model"
ABOUT_DATA = "The data, and what is wrong with it"
LIMITS = "What the model cannot do"
LINKS = "Papers, code, licenses, and how to cite"
HOW_TO_READ = "How to read the colors"

READING = (
    "**Orange** speaks **for** the class that is explained, **blue** speaks **against** it. The stronger the color, "
    "the more the area counts. Where you see the plain gray scan, the image hardly mattered.",
    "Full color stands for the same evidence in every image, so a pale map means that the model found little evidence.",
    "A map shows what **the model** used, not where a tumor is. A model can be right for the wrong reason.",
    "Colors on the skull, outside the head, or on written text are a warning: do not trust the answer then.",
)
AGAINST = "What speaks most strongly against it is outlined: {where}."
UNSIGNED = "The more orange, the more an area matters; this kind of map does not tell for from against."
HITS = "In test scans with {label}, such maps point into the tumor in {hits}; a blind guess does in {chance}."
NO_OUTLINE = "Nothing here reaches half of full color, so there is no strongest area."

RECOGNIZED = "{name} recognized: the model's certainty is {certainty}."
MOST_LIKELY = "{name} is only the likeliest answer: the model's certainty is {certainty}."
NOTHING_RECOGNIZED = "{name}: the model's certainty is {certainty}."
NOT_RULED_OUT = "This does not rule out a tumor."
UNKNOWN_DISEASES = (
    "The model knows only the classes below: no stroke, no bleeding, no metastases. It can miss tumors in kinds of "
    "scans that it has rarely seen, and it was never tested on children."
)

NO_IMAGE = "There is no image yet. Choose an image of one MRI slice; in Python, pass handle_file(path)."
IMAGE_EXPIRED = f"Your image was deleted: uploads are kept for {KEPT_MINUTES} minutes. Please choose it again."
MAP_EXPIRED = f"This map was deleted: results are kept for {KEPT_MINUTES} minutes. Please choose your image again."
CHECKPOINT_UNAVAILABLE = "This model cannot be loaded at the moment. Choose another one, or try again later."
NO_CHECKPOINT = (
    "There is no checkpoint to serve. Train one (training/train.py) into brain_xai/bundled/<name>, or name one in "
    "BRAIN_XAI_CHECKPOINTS."
)

# Only display text: the checkpoint defines the classes. Never the bare words "no tumor", because the model can only
# fail to recognize one.
NO_TUMOR = "notumor"
LABEL_TEXTS = {
    NO_TUMOR: "no tumor recognized",
    "pituitary": "pituitary tumor",
    NOT_A_BRAIN: "not a brain scan",
}
TRUTH_TEXTS = {NO_TUMOR: "No tumor"}


def label_text(label: str) -> str:
    """Return the text of a class key: "notumor" -> "no tumor recognized", "low_grade" -> "low grade"."""
    return _(LABEL_TEXTS.get(label, label.replace("_", " ")))


def heading(label: str) -> str:
    """Return the text of a class key as a heading: "notumor" -> "No tumor recognized"."""
    text = label_text(label)
    return text[:1].upper() + text[1:]


def guess_text(label: str) -> str:
    """Return the text of a class as somebody who looks at a scan says it: a visitor's guess, or the truth."""
    return _(TRUTH_TEXTS[label]) if label in TRUTH_TEXTS else heading(label)


def is_tumor(label: str) -> bool:
    """Return whether a class is a kind of tumor, as far as its name tells."""
    return label != NO_TUMOR


def checkpoint_unavailable(reason: str) -> str:
    """Return the error for a checkpoint that cannot be loaded, with a reason that is public."""
    return f"This model cannot be loaded at the moment. Choose another one, or try again later. {reason}"


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


def gallery_label(label: str) -> str:
    """Return the heading of the maps side by side."""
    return _("All kinds of maps for {label}, best measured first; tap one to enlarge it", label=label_text(label))


def disclaimer() -> str:
    """Return the title and the disclaimer as HTML."""
    first, second = map(_, DISCLAIMER)
    return f'<h1>{_(TAGLINE)}</h1><p class="disclaimer" role="note"><strong>{first}</strong> {second}</p>'


def cases_title() -> str:
    """Return the heading of the cases as HTML."""
    return f"<p>{_(CASES)}</p>"


def hint() -> str:
    """Return what can be done with the scan as HTML."""
    return f"<p>{_(TAP)}</p>"


def how_to_read() -> str:
    """Return in Markdown how to read a map, and what each method shows, with its paper."""
    methods = [f"- **[{method.title}]({method.paper}).** {_(method.summary)}" for method in METHODS.values()]
    return "\n".join([*(f"- {_(sentence)}" for sentence in READING), "", *methods])


def privacy() -> str:
    """Return what happens to an image, and what is counted if anything is, as HTML."""
    counted = f" {_(COUNTED)}" if Settings.from_environment().is_counting else ""
    return f'<p class="fine-print">{_(PRIVACY)}{counted}</p>'


def progress(done: int, total: int, seconds: float) -> str:
    """Return a progress bar with the seconds left as HTML."""
    bar = f'<progress value="{done}" max="{total}" aria-label="{_("Progress")}"></progress>'
    left = _("about {seconds} s left", seconds=round(seconds)) if seconds >= 1.5 else _("nearly done")
    return f"{bar} <span>{left if done < total else ''}</span>"


def waiting(before: int, seconds: float) -> str:
    """Return how many maps of others come first as HTML."""
    if not before:
        return f"<p>{_('Starting …')}</p>"
    place = "You are next, about {seconds} s." if before == 1 else "{before} maps are before yours, about {seconds} s."
    return f"<p>{_(place, before=before, seconds=max(round(seconds), 1))}</p>"


def notice(sentence: str) -> str:
    """Return something to know as HTML that screen readers read when they are idle."""
    return f'<p class="notice" role="status">{escape(translated(sentence))}</p>'


def error(sentence: str) -> str:
    """Return what went wrong as HTML that screen readers announce."""
    return f'<p class="notice error" role="alert">{escape(translated(sentence))}</p>'


def doubt(label: str) -> str:
    """Return the text of the button that explains the likeliest tumor."""
    return _("Show what speaks for {label}", label=label_text(label))


def plain(html: str) -> str:
    """Return the words of our own HTML."""
    return unescape(re.sub("<[^>]*>", " ", html)).strip()
