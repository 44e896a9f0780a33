"""Attention relevance: what a vision transformer passes on from the patches of an image to one logit."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from brain_xai.classifier import Classifier, model_fact
from brain_xai.methods.cam import to_image_space
from brain_xai.methods.request import Request
from brain_xai.methods.target_layer import TargetLayer

# What counts as no change: float32 sums of a few thousand terms differ in their last digits.
TOLERANCE = 1e-4


@dataclass(frozen=True, eq=False)
class Tokens:
    """How the tokens of a vision transformer lie on the image, and which of them its answer is read from.

    Attributes:
        patches: Where the patches lie, as of a feature map; they are the last tokens, row by row.
        readout: The share of each token in what the head reads, float32 [tokens], on the CPU: 1 for a class token, or
            equal parts for tokens that are averaged.
    """

    patches: TargetLayer
    readout: torch.Tensor


def attention_unsupported(classifier: Classifier) -> str | None:
    """Return why attention relevance does not work on this classifier, None if it does."""
    found = _tokens(classifier)
    if isinstance(found, Tokens):
        return None
    architecture = classifier.info.architecture
    return f"Attention relevance needs a vision transformer with global attention; {architecture} {found}"


def attention_relevance(request: Request) -> tuple[np.ndarray, dict]:
    """Compute how much each patch adds to the logit through all attention layers.

    In every layer, attention × its gradient says which token raises the logit by reading from which other; only the
    positive part is kept and averaged over the heads. A skip connection adds the token itself. The product over the
    layers leads from the tokens that the head reads back to the patches. Attention roll-out does the same with
    attention alone, so that its map is the same for every class.

    Args:
        request: The class and image to explain. Captum has no such method, so there is only the engine "auto".

    Returns:
        The attribution, float32 [H, W] >= 0, the relevance of the patch around each pixel (in logits for a model of one
        layer; products of logits are added for each further one), and the settings.

    Reference:
        Chefer, Gur and Wolf 2021, "Generic Attention-model Explainability for Interpreting Bi-Modal and Encoder-Decoder
        Transformers", https://arxiv.org/abs/2103.15679. Roll-out: Abnar and Zuidema 2020, arXiv 2005.00928.
    """
    classifier, tokens = request.classifier, _tokens(request.classifier)
    with classifier.private_model() as model, _recorded_attention(model) as attentions:
        logit = model(request.pixel_values)[0, request.target]
        gradients = torch.autograd.grad(logit, attentions)
    # Each token is relevant for itself by 1, through the skip connections all the way down. That is left out: it says
    # nothing about the image and would swallow the digits of what is small.
    relevance = torch.zeros(attentions[0].shape[-2:], device=logit.device)
    for attention, gradient in zip(attentions, gradients, strict=True):
        raised = (attention.detach() * gradient).float().clamp(min=0)[0].mean(dim=0)
        relevance = relevance + raised + raised @ relevance
    request.progress(1, 1)
    rows, columns = tokens.patches.grid_size
    grid = (tokens.readout.to(relevance.device) @ relevance)[-rows * columns :].view(1, 1, rows, columns)
    settings = {"engine": "own", "layers": len(attentions), "cells": (rows, columns), "stride": tokens.patches.stride}
    return to_image_space(grid, tokens.patches, request.size), settings


@contextmanager
def _recorded_attention(model: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Record the attention of every layer, [N, heads, tokens, tokens], in a model that only this thread holds.

    timm's layers pass it through a dropout module, but not where they leave all of attention to one fused operation.
    """
    attentions: list[torch.Tensor] = []
    layers = _attention_layers(model)
    fused = [(layer, layer.fused_attn) for layer in layers if hasattr(layer, "fused_attn")]
    hooks = []
    try:
        for layer, _ in fused:
            layer.fused_attn = False
        for dropout in (layer.attn_drop for layer in layers):
            hooks.append(dropout.register_forward_hook(lambda module, inputs, output: attentions.append(output)))
        yield attentions
    finally:
        for hook in hooks:
            hook.remove()
        for layer, was_fused in fused:
            layer.fused_attn = was_fused


def _attention_layers(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(getattr(module, "attn_drop", None), nn.Module)]


# Whether attention alone carries something from one place of the image to another


@model_fact
@torch.inference_mode(False)  # the private copy must be fit for gradients, whatever mode the caller is in
@torch.no_grad()
def _tokens(classifier: Classifier) -> Tokens | str:
    """Return how the tokens lie on the image, or how a sentence ends that says why this cannot be told."""
    size = classifier.preprocessing.size
    with classifier.private_model() as shared:
        if not any("attention" in type(module).__name__.lower() for module in shared.modules()):
            return "has no attention layers. Use grad_cam."
        model = copy.deepcopy(shared).float()  # its attention is overwritten, and equal is to mean equal
    black = torch.zeros(1, 3, *size, device=classifier.device)
    with _recorded_attention(model) as attentions:
        features = model.forward_features(black)
    if not _are_global(attentions, features):
        return "attends within windows, at several resolutions or between convolutions. Use occlusion."
    count, prefix = features.shape[1], getattr(model, "num_prefix_tokens", 0)
    patches = _patches(count - prefix, size)
    if patches is None or not _stay_apart(model, classifier, patches):
        return "also mixes places of the image outside of its attention. Use occlusion."
    readout = _readout(model, features, prefix)
    if readout is None:
        return "weighs its patches once more in its head, which cannot be followed. Use occlusion."
    return Tokens(patches, readout)


def _are_global(attentions: list[torch.Tensor], features: torch.Tensor) -> bool:
    """Return whether every layer lets all tokens of the image attend to all others."""
    if not attentions or features.ndim != 3:
        return False
    count = features.shape[1]
    return all(attention.ndim == 4 and attention.shape[-2:] == (count, count) for attention in attentions)


def _patches(count: int, size: tuple[int, int]) -> TargetLayer | None:
    """Return where `count` square patches lie on the image, None if they do not cover it."""
    rows = round((count * size[0] / size[1]) ** 0.5)
    columns = count // max(rows, 1)
    if rows < 1 or rows * columns != count or size[0] % rows or size[1] % columns:
        return None
    stride = (size[0] / rows, size[1] / columns)
    return TargetLayer("patches", (rows, columns), stride, tuple((step - 1) / 2 for step in stride))


def _stay_apart(model: nn.Module, classifier: Classifier, patches: TargetLayer) -> bool:
    """Return whether a patch changes its own token alone when every token attends to nothing but itself.

    If so, attention is the only way from one place to another, and each token lies where it is said to.
    """
    (rows, columns), (height, width) = patches.grid_size, (int(step) for step in patches.stride)
    places = {(0, columns - 1), (rows - 1, 0), (rows // 2, columns // 3)}
    generator = torch.Generator().manual_seed(0)
    images = torch.zeros(1 + len(places), 3, *classifier.preprocessing.size)
    for image, (row, column) in zip(images[1:], places, strict=True):
        noise = torch.randn(3, height, width, generator=generator)
        image[:, row * height : (row + 1) * height, column * width : (column + 1) * width] = noise
    hooks = [layer.attn_drop.register_forward_hook(_attend_to_itself) for layer in _attention_layers(model)]
    with _recorded_attention(model):
        features = model.forward_features(images.to(classifier.device))[:, -rows * columns :]
    for hook in hooks:
        hook.remove()
    changes = (features[1:] - features[:1]).abs().amax(dim=2)
    own = torch.zeros_like(changes, dtype=torch.bool)
    own[torch.arange(len(places)), torch.tensor([row * columns + column for row, column in places])] = True
    return bool(changes[own].min() > 0 and changes[~own].max() <= TOLERANCE * changes[own].min())


def _attend_to_itself(module: nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
    return torch.eye(output.shape[-1], dtype=output.dtype, device=output.device).expand_as(output)


def _readout(model: nn.Module, features: torch.Tensor, prefix: int) -> torch.Tensor | None:
    """Return the share of each token in what the head reads, [tokens]; None if it is more than an average of some."""
    count = features.shape[1]
    noise = torch.randn(1, *features.shape[1:], generator=torch.Generator().manual_seed(0)).to(features)
    averaged = noise.clone()
    averaged[:, prefix:] = noise[:, prefix:].mean(dim=1, keepdim=True)
    others = noise.repeat(prefix + 1, 1, 1)
    for token in range(prefix):
        others[token, token] += 1 + noise[0, token].flip(0)
    others[prefix, prefix:] += 1 + noise[0, prefix:].flip(1)
    logits = model.forward_head(torch.cat([noise, averaged, others]))
    changes = (logits - logits[:1]).abs().amax(dim=1)
    changes = changes > TOLERANCE * changes.max()
    if changes[1] or not changes[2:].any():
        return None
    used = torch.zeros(count)
    used[:prefix] = changes[2 : 2 + prefix].float().cpu()
    used[prefix:] = float(changes[2 + prefix])
    return used / used.sum()
