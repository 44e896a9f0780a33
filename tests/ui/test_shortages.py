"""Without memory or disk a request is refused with a sentence, and the next one is answered."""

import errno

import gradio as gr
import pytest
import torch
from gradio import route_utils
from PIL import Image

from brain_xai.ui.shortages import NO_MEMORY, NO_SPACE, shortage
from tests.helpers.caller import Caller, Refused
from tests.helpers.served import served
from tests.helpers.visits import scan_file


def torch_error() -> RuntimeError:
    """What torch itself raises when there is not enough memory: more than any machine has."""
    with pytest.raises(RuntimeError) as failure:
        torch.empty(2**55)
    return failure.value


def wrapped(error: BaseException) -> BaseException:
    outer = ValueError("cannot be drawn")
    outer.__cause__ = error
    return outer


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (MemoryError(), NO_MEMORY),
        (torch_error(), NO_MEMORY),
        (OSError(errno.ENOMEM, "x"), NO_MEMORY),
        (OSError(errno.ENOSPC, "No space left on device"), NO_SPACE),
        (wrapped(MemoryError()), NO_MEMORY),
        (wrapped(OSError(errno.EDQUOT, "x")), NO_SPACE),
        (RuntimeError("sizes do not match"), None),
        (OSError(errno.ENOENT, "x"), None),
        (gr.Error("x"), None),
    ],
)
def test_what_is_a_shortage(error, sentence):
    assert shortage(error) == sentence


@pytest.fixture(scope="module")
def address(tiny):
    with served(tiny) as (_, address):
        yield address


def test_a_request_without_memory_is_refused_and_the_next_one_answered(address, monkeypatch):
    """Pillow is not given the memory for one image; what is refused for a lack of memory is not called damaged."""
    load = Image.Image.load

    def starved(image):
        monkeypatch.setattr(Image.Image, "load", load)
        raise MemoryError

    with Caller(address) as caller:
        file = caller.upload(scan_file(1), "scan.png")
        monkeypatch.setattr(Image.Image, "load", starved)
        assert caller.call("predict", file).error == NO_MEMORY
        assert caller.call("predict", file).data


def test_an_upload_without_space_is_refused_and_the_next_one_taken(address, monkeypatch):
    new_file = route_utils.NamedTemporaryFile

    def full(*_, **__):
        monkeypatch.setattr(route_utils, "NamedTemporaryFile", new_file)
        raise OSError(errno.ENOSPC, "No space left on device", "/secret")

    with Caller(address) as caller:
        monkeypatch.setattr(route_utils, "NamedTemporaryFile", full)
        with pytest.raises(Refused) as refusal:
            caller.upload(scan_file(1), "scan.png")
        assert str(refusal.value) == NO_SPACE
        assert caller.call("predict", caller.upload(scan_file(1), "scan.png")).data
