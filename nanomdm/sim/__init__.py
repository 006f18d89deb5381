"""
Simulated devices, which enroll, fetch commands and answer them as Apple's devices
do, and a simulated APNs, for tests, load and the demonstration.
"""
