"""tus 1.0.0, requirement by requirement: see README.md in this folder."""
