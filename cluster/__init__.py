"""What the balancer and the nodes share: configuration, membership, Redis and process supervision.

Imports neither `lb` nor `node`; both import from here.
"""
