"""Offline and device side of laudserve: networks, bundles, engines and latency prediction."""
