"""What the service does, one verb a file. Verbs know ports, never technology."""
