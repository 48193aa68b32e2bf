"""The page pool: page ids, who holds them, and how often."""
