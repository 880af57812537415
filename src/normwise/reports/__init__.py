"""The reports of operations on a whole model of either framework: plain data, without a framework."""
