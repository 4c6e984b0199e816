"""What `scripts/seed_log.py` makes a log of."""
