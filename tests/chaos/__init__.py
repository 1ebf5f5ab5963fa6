"""The ordered inbox under kills: workers and a broker that die, and a count of every record."""
