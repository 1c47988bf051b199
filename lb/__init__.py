"""The balancer: a request arrives, a node is chosen, the bytes go there.  `docs/path-of-a-connection.md` is the map."""
