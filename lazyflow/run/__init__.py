"""Forward, backward, and what ties a program to them: the engine, and examples that decide."""
