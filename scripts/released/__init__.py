"""What `scripts/release_events.py` holds."""
