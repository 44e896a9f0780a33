"""Explanations: why a classifier gives the label it gives."""
