"""
What the server counts and measures, for Prometheus.

Each layer has its part, which it is handed: L{http<nanomdm.metrics.http>},
L{devices<nanomdm.metrics.devices>}, L{pushes<nanomdm.metrics.pushes>},
L{webhook<nanomdm.metrics.webhook>}, L{storage<nanomdm.metrics.storage>},
L{certificates<nanomdm.metrics.certificates>} and L{secrets<nanomdm.metrics.secrets>}.
What only the database knows, L{stored<nanomdm.metrics.stored>} reads from time to time.
L{registry<nanomdm.metrics.registry>} has all of it, and the text for scrapers.

Nothing in here imports the layers, and no label holds what a client or a device says,
unless it is one of a few known words: so there never are many series.
"""
