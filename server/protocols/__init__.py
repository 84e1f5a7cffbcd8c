"""The wire protocols over one store: each module could be deleted without touching another."""
