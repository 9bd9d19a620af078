"""Images: reading, letterbox, sources, annotations, synthetic people, drawing."""
