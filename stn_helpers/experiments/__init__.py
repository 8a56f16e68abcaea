"""Long measurements, each cut into jobs that can be killed and gone on with: ``python -m stn_helpers.experiments``."""
