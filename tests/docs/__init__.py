"""
Tests of what is written for people: that it is true.
"""
