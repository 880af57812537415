"""The parts of the command line: the program, and groups of commands that have a file of their own."""
