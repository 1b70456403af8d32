"""hashweir: a streaming hash-matching service for known terrorist and violent-extremist media."""

__version__ = "0.1.0"
