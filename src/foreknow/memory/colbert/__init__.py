"""Text search by late interaction: every query token looks for its best match among a document's tokens."""
