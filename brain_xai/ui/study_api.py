"""The endpoint /study: a DICOM series or a NIfTI volume in; a table, a map and a report out."""

import inspect
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import gradio as gr

from brain_xai.preprocess import UnreadableImage
from brain_xai.study import StudyExplanation
from brain_xai.study.volume import PLANES
from brain_xai.ui import studies
from brain_xai.ui.callers import stream_for_caller
from brain_xai.ui.calls import FILE_META, describe_upload
from brain_xai.ui.inputs import UserError, get_classifier
from brain_xai.ui.jobs import Progress

# The maps of others do not wait until a study of a thousand slices is done.
QUEUE = {"concurrency_id": "study", "concurrency_limit": 1}
AUTOMATIC = "auto"
SAVE_MAP = {"nifti": studies.save_map, "dicom": studies.save_dicom}
SERIES = {"path": "series.zip", "meta": FILE_META}
FORMS = "All DICOM files of one MR series, a ZIP of them, or one NIfTI file: uploaded files or data URLs."


@dataclass(frozen=True)
class StudyCall:
    """What a caller of /study sends; the fields are its arguments."""

    files: Sequence[dict[str, Any]] | None
    checkpoint: str = "default"
    method: str = "grad_cam"
    target: str | int = "suspected"
    plane: str = AUTOMATIC
    series: int | None = None
    volume: int | None = None
    map_format: str = "nifti"


class StudyAnswer(NamedTuple):
    """What a caller of /study gets: JSON, and files. The map comes last and takes longest; None before that."""

    study: dict[str, Any]
    table: str
    map: str | None
    report: str


def add_endpoint(checkpoint: gr.Dropdown, method: gr.Dropdown) -> None:
    """Define /study in the current page, with the components of the other endpoints for what they share."""
    with gr.Column(visible=False):
        files = describe_upload(gr.File(label="files", file_count="multiple"), FORMS, [SERIES])
        options = [
            gr.Textbox("suspected", label="target"),
            gr.Dropdown([AUTOMATIC, *PLANES], value=AUTOMATIC, label="plane"),
            gr.Number(None, label="series", precision=0),
            gr.Number(None, label="volume", precision=0),
            gr.Dropdown(list(SAVE_MAP), value="nifti", label="map_format"),
        ]
        outputs = [gr.JSON(label="study"), *(gr.File(label=name) for name in StudyAnswer._fields[1:])]
        call = gr.Button()
    call.click(_endpoint, [files, checkpoint, method, *options], outputs, api_name="study", preprocess=False, **QUEUE)


async def study(call: StudyCall) -> AsyncIterator[StudyAnswer]:
    """Classify every slice of a study and show what speaks for one class in each. There is no answer for the patient.

    Answers with JSON: `slices`, one entry per slice in the order of the study (`slice` from 1, `place`: "inside",
    "edge" or "outside" of the head, `label`, `probabilities`, `warnings`: codes), `first` (slice numbers, the most
    suspicious first), `messages` {code: message}, `warnings` (about the study), `study` (kind, slices, plane, ends,
    spacing in mm), `method`, `target` and `label` (the class of the maps), `checkpoint` and `seconds`; then the table
    (CSV), the map and the report (one HTML page). The map as NIfTI is float32 on the grid of the volume, > 0 where
    something speaks for the class and < 0 against it; as DICOM it is a Secondary Capture of what is drawn, one frame
    per slice. No name, date or text of the files is read. Reports its progress in slices, and while the map is drawn,
    answers with all but the map (null), so that whoever cancels keeps the rest.

    Args:
        files: All DICOM files of one MR series, a ZIP of them, or one NIfTI file.
        checkpoint: As for `predict`.
        method: As for `explain`.
        target: The class of the maps: "suspected" is the one other than "no tumor" that is most probable anywhere.
        plane: "axial", "coronal" or "sagittal"; "auto" for the plane that the scanner took.
        series: Which of several DICOM series, from 1; the error that asks for it lists them.
        volume: Which volume of a NIfTI file of several, from 0.
        map_format: The map as "nifti" (.nii.gz) or "dicom" (.dcm).
    """

    def work(progress: Progress) -> StudyAnswer:
        start = time.perf_counter()
        if call.map_format not in list(SAVE_MAP):  # it may be anything
            raise UserError(f"map_format must be one of: {', '.join(SAVE_MAP)}.")
        classifier = get_classifier(call.checkpoint)
        choice = studies.Choice(None if call.plane == AUTOMATIC else call.plane, call.series, call.volume)
        try:
            found = studies.read_uploaded_study(call.files, choice)
        except (UnreadableImage, ValueError) as error:
            raise UserError(str(error)) from error
        total = 2 * len(found)  # answers, then maps
        explained = studies.explain_uploaded_study(
            classifier, found, str(call.method), call.target, lambda done, _: progress(done, total)
        )
        facts = describe_study(explained)

        def so_far() -> dict[str, Any]:
            return facts | {"seconds": round(time.perf_counter() - start, 3)}

        answer = StudyAnswer(so_far(), studies.save_table(explained), None, studies.save_report(explained))
        # Not before: the class of the maps, and what to look at first, are known once all slices are.
        progress(len(found), total, answer)
        saved = SAVE_MAP[call.map_format](explained, lambda done, _: progress(len(found) + done, total))
        return answer._replace(study=so_far(), map=saved)

    async for answer in stream_for_caller(work, "slices", gives_way=True):
        yield answer


def describe_study(explained: StudyExplanation) -> dict:
    """Return the answers for a study as JSON."""
    shown = explained.study
    warnings = [warning for prediction in explained.predictions for warning in prediction.warnings]
    return {
        "study": {
            "kind": shown.kind,
            "slices": len(shown),
            "plane": shown.plane,
            "ends": shown.ends,
            "spacing": [round(part, 4) for part in shown.spacing],
        },
        "slices": [
            {
                "slice": index + 1,
                "place": explained.places[index].value,
                "label": prediction.label,
                "probabilities": prediction.probabilities,
                "warnings": [warning.code for warning in prediction.warnings],
            }
            for index, prediction in enumerate(explained.predictions)
        ],
        "first": [index + 1 for index in explained.ranking()],
        "messages": {warning.code: warning.message for warning in warnings},
        "warnings": [asdict(warning) for warning in explained.warnings],
        "method": explained.method,
        "target": explained.target,
        "label": explained.label,
        "checkpoint": asdict(explained.predictions[0].checkpoint),
    }


async def _endpoint(*values: Any) -> AsyncIterator[StudyAnswer]:
    async for answer in study(StudyCall(*values)):
        yield answer


_endpoint.__name__, _endpoint.__doc__ = study.__name__, study.__doc__
_endpoint.__signature__ = inspect.signature(StudyCall)
