"""Usage instructions printed for an exported file."""
