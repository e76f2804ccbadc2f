"""The tests; what they share lives in tests.support."""
