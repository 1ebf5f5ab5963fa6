"""How Kịp is put somewhere: topics, a laptop, a cluster."""
