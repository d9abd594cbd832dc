"""The figures and tables of the AdderNet paper, one script each."""
