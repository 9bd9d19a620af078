"""Printed instructions for an exported file."""
