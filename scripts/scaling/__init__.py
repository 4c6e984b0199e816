"""What `scripts/plot_scaling.py` draws and writes."""
