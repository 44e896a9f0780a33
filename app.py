"""Brain XAI, the entry of the Space: build the page and serve it. Importing this file starts nothing."""

from brain_xai.ui.handlers import warm_up
from brain_xai.ui.page import build_page
from brain_xai.ui.privacy import isolate_upload_folder
from brain_xai.ui.serving import launch

if __name__ == "__main__":
    isolate_upload_folder()  # before the page is built, because Gradio reads the folder then
    warm_up()  # before the page is built, because it offers the example scans of checkpoints that were downloaded
    demo = build_page()  # `gradio app.py` looks for this name
    launch(demo)
