"""How the world reaches the service: messages become domain values here, and nothing else happens."""
