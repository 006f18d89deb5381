"""
Tests for L{nanomdm.metrics}.
"""
