"""Brain XAI, the entry of the Space: build the page and serve it. Importing this file starts nothing."""

from brain_xai.checkpoint.catalog import allowed_checkpoints
from brain_xai.ui.hub_follower import prefetch
from brain_xai.ui.page import build_page
from brain_xai.ui.privacy import isolate_upload_folder
from brain_xai.ui.serving import launch

if __name__ == "__main__":
    isolate_upload_folder()  # before the page is built, because Gradio reads the folder then
    prefetch(allowed_checkpoints())  # before the page is built, because it offers the cases that come with them
    demo = build_page()  # `gradio app.py` looks for this name
    launch(demo)
