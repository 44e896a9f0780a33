"""The monitoring page: what the app has been asked and how it answered, in numbers only."""
