"""One script per question, each runnable by a user: Flotilla beside its peer in the same run."""
