"""Brain XAI, the entry of the Space: build the page, launch it."""

from brain_xai.ui.page import build_page, launch

demo = build_page()

if __name__ == "__main__":
    launch(demo)
