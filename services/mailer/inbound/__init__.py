"""How orders reach the service: messages become domain values here, and nothing else happens."""
