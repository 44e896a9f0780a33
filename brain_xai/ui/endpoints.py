"""The functions of `api` as endpoints of the page: their types, choices, default values and queues."""

import inspect
from collections.abc import Callable
from typing import Any

import gradio as gr

from brain_xai.checkpoint.catalog import allowed_checkpoints, checkpoint_folder
from brain_xai.checkpoint.schema import CheckpointError, read_json
from brain_xai.methods import METHODS
from brain_xai.ui import api, study_api
from brain_xai.ui.calls import FILE_META, describe_upload
from brain_xai.ui.jobs import QUICK, SLOW

# Neither single predictions nor maps wait for a batch.
BATCH = {"concurrency_id": "batch", "concurrency_limit": 1}
IMAGE_FORMS = "One slice: an uploaded file (in Python, handle_file(path)) or a data URL."
FILES_FORMS = "Image files, or a zip of them: uploaded files (in Python, handle_file(path)) or data URLs."
SCAN = {"path": "scan.png", "meta": FILE_META}


def add_endpoints() -> None:
    """Define the endpoints in the current page.

    They are events of hidden components, because these give the API its types, its default values and files that are
    deleted: `gr.api` derives types from the annotations, but neither accepts an upload nor deletes what it returns.
    """
    with gr.Column(visible=False):
        image = describe_upload(
            gr.Image(type="filepath", image_mode=None, label="image", buttons=[]), IMAGE_FORMS, SCAN
        )
        checkpoint = gr.Dropdown(["default", *allowed_checkpoints()], value="default", label="checkpoint")
        method = gr.Dropdown(list(METHODS), value="grad_cam", label="method")
        target = gr.Dropdown(["predicted", *_labels()], value="predicted", label="target")
        options = [
            gr.Slider(0, 1, 0.7, step=0.01, label="opacity"),
            gr.Checkbox(False, label="outline"),
            gr.Dropdown(list(api.SIZES), value="original", label="size"),
            gr.Dropdown(list(api.BARS), value="words", label="bar"),
            gr.Number(None, label="window"),
            gr.Number(None, label="stride"),
        ]
        overlay = gr.Image(format="png", label="overlay", buttons=[])
        attribution = gr.File(label="attribution")
        attributions = gr.File(label="attributions")
        files = describe_upload(
            gr.File(label="files", file_count="multiple", type="filepath"), FILES_FORMS, [SCAN, SCAN]
        )
        table_file = gr.File(label="csv")
        gallery = gr.Gallery(format="png", label="gallery", buttons=[])
        facts = {
            name: gr.JSON(label=name)
            for name in ("prediction", "explanation", "comparison", "table", "methods", "checkpoints")
        }
        call = gr.Button()

    def endpoint(function: Callable, inputs: list, outputs: Any, queue: dict) -> None:
        call.click(function, inputs, outputs, api_name=function.__name__, preprocess=False, **queue)

    endpoint(api.predict, [image, checkpoint], facts["prediction"], QUICK)
    endpoint(
        _taking(api.ExplainCall, api.explain),
        [image, checkpoint, method, target, *options],
        [overlay, attribution, facts["explanation"]],
        SLOW,
    )
    endpoint(api.compare, [image, checkpoint, target], [gallery, attributions, facts["comparison"]], SLOW)
    endpoint(api.batch, [files, checkpoint], [facts["table"], table_file], BATCH)
    endpoint(api.methods, [checkpoint], facts["methods"], QUICK)
    endpoint(api.checkpoints, [], facts["checkpoints"], QUICK)
    study_api.add_endpoint(checkpoint, method)


def _labels() -> list[str]:
    """Return the labels of all checkpoints that are on this disk, without loading their weights."""
    labels: dict[str, None] = {}
    for folder in filter(None, map(checkpoint_folder, allowed_checkpoints())):
        try:
            labels.update(dict.fromkeys(map(str, read_json(folder / "config.json").get("label_names", ()))))
        except CheckpointError:  # `get_classifier` says what is wrong with it
            continue
    return list(labels)


def _taking(call: type, function: Callable) -> Callable:
    """Return an endpoint as Gradio calls it, with the fields of a dataclass as arguments."""

    async def endpoint(*values: Any) -> Any:
        return await function(call(*values))

    endpoint.__name__, endpoint.__doc__ = function.__name__, function.__doc__
    endpoint.__signature__ = inspect.signature(call)
    return endpoint
