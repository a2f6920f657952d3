"""The online side: takes images over HTTP, batches them, and runs them through an engine."""
