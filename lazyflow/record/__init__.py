"""What is recorded: tapes, types and signatures, expressions, and what whole functions and calls append."""
