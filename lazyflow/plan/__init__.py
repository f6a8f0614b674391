"""Which nodes run together, where every value lies, and the plans and memory that are used again."""
