"""Reports: functions from a run record (and, for HTML, its raw samples) to text."""
