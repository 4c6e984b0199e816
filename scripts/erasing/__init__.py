"""What `scripts/erase_account.py` does."""
