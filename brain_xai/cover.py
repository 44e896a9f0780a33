"""Cover a part of an image and ask again: what would the answer be without it?"""

import os

import numpy as np
from PIL import Image

from brain_xai.classifier import Classifier, Prediction
from brain_xai.overlay import Box
from brain_xai.preprocess import Part, Preprocessing, prepare, read_image, to_pixel_values


def cover(
    classifier: Classifier, image: Image.Image | np.ndarray | str | os.PathLike, region: Box | np.ndarray
) -> Prediction:
    """Classify an image with a part of it covered with black, as occlusion covers its windows.

    The frame of the head is that of the whole image, so that nothing but the covered part changes. It takes one forward
    pass.

    Args:
        classifier: The model to ask.
        image: A PIL image, a NumPy array (see `brain_xai.preprocess.read_image`) or a path.
        region: What to cover in the image as it is shown, upright: a box x_min, y_min, x_max, y_max in fractions of
            width and height, or a mask, bool [H, W]. Pixels of the model's input whose centers lie in it turn black.

    Returns:
        The answer for the rest of the image. Its warnings are those of the checkpoint alone: the others are about
        whole images.

    Raises:
        UnreadableImage: The image cannot be used.
        ValueError: The box is empty or inside out, or the mask is not bool [H, W] of the image's height and width.
    """
    gray = read_image(image)
    prepared = prepare(gray, classifier.preprocessing)
    mask = to_view_mask(region, gray.size, prepared.part, classifier.preprocessing)
    return cover_view(classifier, prepared.view, mask)


def cover_view(classifier: Classifier, view: Image.Image, mask: np.ndarray) -> Prediction:
    """Classify what the model sees of an image with a part of it covered with black.

    Args:
        classifier: The model to ask.
        view: The RGB image that the model sees, W x H pixels.
        mask: What to cover, bool [H, W].

    Returns:
        As `cover`.
    """
    covered = Image.fromarray(np.where(mask[..., None], 0, np.asarray(view)).astype(np.uint8))
    output = classifier.forward(to_pixel_values(covered, classifier.preprocessing))
    return classifier.answer(output)


def to_view_mask(
    region: Box | np.ndarray, size: tuple[int, int], part: Part, preprocessing: Preprocessing
) -> np.ndarray:
    """Return which pixels of the view have their center in a region of the original.

    Args:
        region: As for `cover`.
        size: Width and height of the original in pixels.
        part: The part of the original that the view shows, see `brain_xai.preprocess.ModelInput`.
        preprocessing: It has the size of the view.

    Returns:
        Bool [H, W] of the view's height and width.

    Raises:
        ValueError: As `cover`.
    """
    left, top, right, bottom = part
    height, width = preprocessing.size
    x = left + (np.arange(width) + 0.5) / width * (right - left)
    y = top + (np.arange(height) + 0.5) / height * (bottom - top)
    if not isinstance(region, np.ndarray):
        x_min, y_min, x_max, y_max = region
        if not (x_min < x_max and y_min < y_max):
            raise ValueError(f"A box needs x_min < x_max and y_min < y_max, got {region}.")
        return np.outer((y >= y_min) & (y < y_max), (x >= x_min) & (x < x_max))
    if region.dtype != bool or region.shape != size[::-1]:
        raise ValueError(
            f"The mask is {region.dtype} {list(region.shape)}; for this image it has to be bool {list(size[::-1])}."
        )
    # A place beside the original, where the view was padded, is in no region.
    padded = np.pad(region, 1)
    rows = (np.floor(y * size[1]).astype(int) + 1).clip(0, size[1] + 1)
    columns = (np.floor(x * size[0]).astype(int) + 1).clip(0, size[0] + 1)
    return padded[rows[:, None], columns]
