"""Whole journeys in a real browser. A package, so that its server and browser end when its last test has run."""
