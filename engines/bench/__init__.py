"""Measuring engines against each other, fairly: same process, same threads, turn by turn."""
