"""What goes over the wire: our own JSON (`v1`) and the Open Inference Protocol (`oip`)."""
