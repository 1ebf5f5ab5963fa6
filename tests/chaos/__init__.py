"""The ordered inbox and the mailer under kills: processes and a broker that die, and a count of every record."""
