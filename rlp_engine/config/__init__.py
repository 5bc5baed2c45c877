"""What a run is told: the schema (`schema`), and how files and flags become one (`load`)."""
