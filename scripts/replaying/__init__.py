"""What `scripts/replay_run.py` shows, as a page and as a screen."""
