"""The API as tools for language models, over the Model Context Protocol, where the package `mcp` is installed."""

import importlib.util
import os
from typing import Any

import gradio as gr
from anyio import to_thread
from gradio_client.client import Job

# Tools for one image, for many, and for a study; comparing and page events are for people.
TOOLS = ("predict", "explain", "batch", "study", "methods", "checkpoints")


def is_wanted() -> bool:
    """Return whether to offer the tools: `BRAIN_XAI_MCP=0` turns them off."""
    return os.environ.get("BRAIN_XAI_MCP", "1") != "0" and importlib.util.find_spec("mcp") is not None


def limit_tools(page: gr.Blocks) -> None:
    """Offer only `TOOLS` of a page that was launched, and keep what callers send where it is deleted."""
    server = page.mcp_server_obj
    if server is None:
        return
    from gradio import mcp  # needs the package `mcp`

    mcp.DEFAULT_TEMP_DIR = page.GRADIO_CACHE  # which was read when Gradio was imported, before the folder was chosen
    chosen = {name: endpoint for name, endpoint in server.tool_to_endpoint.items() if endpoint.strip("/") in TOOLS}
    server.tool_to_endpoint = chosen
    server._execute_tool_without_progress = _outputs


async def _outputs(job: Job) -> list[Any]:
    """Return each output of a call; Gradio's own version makes one text of several, so that a map is no image."""
    result = await to_thread.run_sync(job.result)
    return list(result) if isinstance(result, tuple) else [result]
