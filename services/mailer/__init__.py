"""Mails letters: codes for otp, notices for whoever asks; never lost, never late without notice.

Reading order: `README.md`, `ports` (what it needs), `rules/letter` (what a letter is), `actions/deliver` (the story of
one letter), `rules/wish` and `actions/heed` (what its owner says of it later), `inbound/kafka_inbox` (where orders and
wishes come from), `outbound/smtp_gateway` (the wire), `__main__` (how two lanes are joined and kept apart).
"""
