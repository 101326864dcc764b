"""What was found, to read and to look at: report.json and report.html."""
