"""Explanations: why a classifier gives the label it gives."""

from brain_xai.explain.methods import (
    METHODS,
    Cancelled,
    Channels,
    Explanation,
    Method,
    MethodNotApplicable,
    explain,
    explain_all,
    scale_of,
    strongest_channels,
)

__all__ = [
    "METHODS",
    "Cancelled",
    "Channels",
    "Explanation",
    "Method",
    "MethodNotApplicable",
    "explain",
    "explain_all",
    "scale_of",
    "strongest_channels",
]
