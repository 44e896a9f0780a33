"""Explanations: why a classifier gives the label it gives."""

from brain_xai.explain.methods import METHODS, Cancelled, Explanation, Method, MethodNotApplicable, explain

__all__ = ["METHODS", "Cancelled", "Explanation", "Method", "MethodNotApplicable", "explain"]
