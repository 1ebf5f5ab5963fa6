"""What sets the service going: a timer. The metrics page is the chassis's."""
