"""Where the machine has no memory or no disk left for a request, that request is refused; the app works on."""

import errno
from collections.abc import Iterator
from typing import Any

import gradio as gr

from brain_xai.ui.inputs import UserError

NO_MEMORY = "The server has not enough memory for this image now. Scale the image down, or try again later."
NO_SPACE = "The server has no space left on its disk. Try again later."
# How torch says it; its error is a RuntimeError like many others.
TORCH_WORDS = ("allocate memory", "out of memory", "not enough memory")


def refuse_on_shortage(page: gr.Blocks) -> None:
    """Have a page answer with a sentence when memory or disk run out. Gradio would say nothing at all."""
    process_api = page.process_api

    async def refusing(*arguments: Any, **keywords: Any) -> dict[str, Any]:
        try:
            return await process_api(*arguments, **keywords)
        except Exception as error:
            sentence = shortage(error)
            if sentence is None:
                raise
            raise UserError(sentence) from error

    page.process_api = refusing


def shortage(error: BaseException) -> str | None:
    """Return what a visitor is told if an error, or what caused it, is a lack of memory or disk; None otherwise."""
    for one in _causes(error):
        if isinstance(one, MemoryError) or (isinstance(one, RuntimeError) and _says(str(one))):
            return NO_MEMORY
        if isinstance(one, OSError) and one.errno in (errno.ENOSPC, errno.EDQUOT):
            return NO_SPACE
        if isinstance(one, OSError) and one.errno == errno.ENOMEM:
            return NO_MEMORY
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _says(message: str) -> bool:
    return any(words in message for words in TORCH_WORDS)
