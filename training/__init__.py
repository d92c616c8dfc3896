"""Training runs: the commands, and what they share."""
