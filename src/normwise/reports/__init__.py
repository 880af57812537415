"""What operations on a whole model of either framework report: plain data, without a framework."""
