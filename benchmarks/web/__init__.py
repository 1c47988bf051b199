"""What `benchmarks/http.py` consists of: the proxies that it compares, what is behind them, and what asks them."""
