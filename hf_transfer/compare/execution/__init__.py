"""One run of a comparison: trained, scored, written down, alone on its process."""
