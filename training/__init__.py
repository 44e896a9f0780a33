"""Train, measure and publish checkpoints. A file in this folder is a command; its subfolders are the steps."""
