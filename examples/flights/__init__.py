"""Flights: predict which flights arrive 15 minutes late or more, from what is known at scheduled departure."""
