"""Two recordings, one of neurons and one of behaviour, explained by smooth latents that they share or have alone."""
