"""What the command line is made of: the program, and groups of commands that have a file of their own."""
