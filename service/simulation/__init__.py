"""The service without an engine: its queue and policies in simulated time, on measured costs."""
