"""Load on a running server: arrivals, clients that do not wait for answers, and their reports."""
