"""
Simulated devices: they enroll, fetch commands and answer them as Apple's
devices do, for tests, load and the demonstration.
"""
