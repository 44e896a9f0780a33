"""What goes to the Hub, to the Space, or into the package."""
