"""The Gradio page and its endpoints; only here and in app.py is gradio imported."""
