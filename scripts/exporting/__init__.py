"""How `scripts/export_history.py` carries a history away."""
