"""Metrics, calibration, and how good the maps are."""
