"""deploytool: bring embedding models up, prove their vectors, measure what they sustain."""

__version__ = "0.1.0"
