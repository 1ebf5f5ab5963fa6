"""What the service does, one verb a file; no technology in here.

Reading order: `open` and `advance` (a step and the wish to mail it are one commit), `sweep` (the wish goes to Kafka),
`follow` (what became of the letter), `find` (the timeline), `forget` (claims past their day).
"""
