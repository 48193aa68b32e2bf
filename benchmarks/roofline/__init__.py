"""Where a step's time goes, and where it would go at the machine's speed."""
