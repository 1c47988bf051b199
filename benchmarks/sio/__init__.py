"""Load, servers and figures of the Socket.IO benchmarks."""
