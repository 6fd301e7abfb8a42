"""Arithmetic that needs neither a graph nor torch."""
