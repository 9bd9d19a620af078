"""Damaged and hostile files and values, fed to every verb of the command line: ``make fuzz``."""
