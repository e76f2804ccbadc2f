"""Thin adapters for frameworks with a session of their own; elsewhere the environ key is all one needs."""
