"""What the model can call. One file a tool; `tool.py` is the contract, `run_tool.py` the fence."""
