"""Issues one-time codes and verifies them.

Reading order: `README.md`, `ports` (what it needs), `rules/challenge` (what a challenge is and may become), `actions`
(one verb a file), `inbound` and `outbound` (how it is reached and what it stands on), `__main__` (how all is joined).
"""
