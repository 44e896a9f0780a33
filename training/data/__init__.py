"""Scans with their labels: sources, duplicates, splits, augmentation, batches."""
