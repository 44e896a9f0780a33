"""Draw the README's figure: what the default checkpoint makes of a synthetic phantom.

python -m training.report.readme_figure
"""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from brain_xai import METHODS, Classifier, draw_overlay, explain, load_checkpoint
from brain_xai.ui.phantoms import phantoms

# In the package, not beside this program, because the Space's README shows it, too.
FIGURE = Path(__file__).parents[2] / "brain_xai" / "ui" / "readme.png"
PHANTOM = 1  # with a bright spot on the left
SHOWN = ("grad_cam", "occlusion")
GAP, TITLE_HEIGHT, WIDTH = 16, 44, 960


def readme_figure(classifier: Classifier) -> Image.Image:
    """Return the phantom and its maps of the predicted class side by side, RGB, 960 pixels wide."""
    phantom = phantoms()[PHANTOM][1]
    explanations = [explain(classifier, phantom, method) for method in SHOWN]
    prediction = explanations[0].prediction
    overlays = [draw_overlay(explanation, on="model") for explanation in explanations]
    size = draw_overlay(explanations[0], on="model", bar="none").size
    bar_height = overlays[0].height - size[1]
    view = Image.new("RGB", overlays[0].size)  # with an empty band in place of a color bar
    view.paste(explanations[0].view.resize(size, Image.Resampling.BICUBIC))
    panels = [_panel("What the model sees", view)]
    answer = f"{prediction.label} {prediction.probabilities[prediction.label]:.0%}"
    _write(panels[0], answer, panels[0].height - bar_height // 2)
    for explanation, overlay in zip(explanations, overlays, strict=True):
        panels.append(_panel(f"{METHODS[explanation.method].title}: why {explanation.label}?", overlay))
    figure = Image.new("RGB", (len(panels) * (size[0] + GAP) - GAP, panels[0].height))
    for index, panel in enumerate(panels):
        figure.paste(panel, (index * (size[0] + GAP), 0))
    return figure.resize((WIDTH, round(figure.height * WIDTH / figure.width)), Image.Resampling.LANCZOS)


def _panel(title: str, image: Image.Image) -> Image.Image:
    """Return an image below a title."""
    panel = Image.new("RGB", (image.width, TITLE_HEIGHT + image.height))
    panel.paste(image, (0, TITLE_HEIGHT))
    _write(panel, title, TITLE_HEIGHT // 2)
    return panel


def _write(panel: Image.Image, text: str, middle: int) -> None:
    """Write a text in the middle of the panel's width."""
    font = ImageFont.load_default(size=panel.width // 18)
    ImageDraw.Draw(panel).text((panel.width // 2, middle), text, fill="white", font=font, anchor="mm")


def main() -> None:
    """Write the figure."""
    readme_figure(load_checkpoint("default")).save(FIGURE, optimize=True)
    print(f"Written: {FIGURE}")


if __name__ == "__main__":
    main()
