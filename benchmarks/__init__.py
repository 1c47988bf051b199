"""One script per question, each runnable by a user: Flotilla beside its peer in the same run."""

import sys
from pathlib import Path

# Python puts a script's own directory first, and there `import socketio` would find our socketio.py.
_HERE = Path(__file__).resolve().parent
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != _HERE]
