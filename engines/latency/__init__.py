"""What a network costs on a device: before it is built, and before a request runs."""
