"""Whether a bundle is whole and its events are as they were written. Standard library only."""
