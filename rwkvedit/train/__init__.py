"""How the embedded model was made, end to end."""
