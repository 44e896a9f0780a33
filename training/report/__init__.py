"""Model cards, tables and figures made from measured numbers."""
