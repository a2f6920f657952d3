"""The slow exact engine, oracle of every other."""
